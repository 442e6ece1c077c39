// SPDX-License-Identifier: GPL-2.0

//! A VM's memory slots, as its VMM has told KVM.

use kernel::{
    alloc::flags::GFP_KERNEL_ACCOUNT,
    prelude::*, //
};
use pvirq_protocol::registers::Status;

use crate::kvm::{
    kvm_userspace_memory_region,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_READONLY, //
};

/// Where a piece of a VM's memory is in its VMM.
#[derive(Clone, Copy)]
struct Slot {
    /// The slot's number, and in the upper half that of its address space.
    id: u32,
    guest: u64,
    size: u64,
    user: u64,
    /// What KVM calls `KVM_MEM_*`.
    flags: u32,
}

impl Slot {
    fn contains(&self, address: u64) -> bool {
        address
            .checked_sub(self.guest)
            .is_some_and(|offset| offset < self.size)
    }
}

/// The slots of a VM that have memory.
///
/// KVM has checked them: they do not overlap, and none wraps around.
pub(crate) struct MemSlots {
    slots: KVec<Slot>,
}

impl MemSlots {
    pub(crate) const fn new() -> Self {
        Self { slots: KVec::new() }
    }

    /// Makes sure that [`MemSlots::set`] will have room for one more slot.
    pub(crate) fn reserve(&mut self) -> Result {
        Ok(self.slots.reserve(1, GFP_KERNEL_ACCOUNT)?)
    }

    /// Notes that KVM has accepted `region`. There must be room, see [`MemSlots::reserve`].
    pub(crate) fn set(&mut self, region: &kvm_userspace_memory_region) {
        // The other address space is that of system management mode, where nobody registers.
        if region.slot >> 16 != 0 {
            return;
        }

        self.slots.retain(|slot| slot.id != region.slot);
        if region.memory_size != 0 {
            let slot = Slot {
                id: region.slot,
                guest: region.guest_phys_addr,
                size: region.memory_size,
                user: region.userspace_addr,
                flags: region.flags,
            };
            let _ = self.slots.push_within_capacity(slot);
        }
    }

    /// Returns whether KVM, once it has accepted `region`, logs writes to some of `len` bytes at `address`.
    pub(crate) fn logs(region: &kvm_userspace_memory_region, address: u64, len: u64) -> bool {
        let end = address.saturating_add(len);
        let region_end = region.guest_phys_addr.saturating_add(region.memory_size);

        // As for `set`.
        region.slot >> 16 == 0
            && region.flags & KVM_MEM_LOG_DIRTY_PAGES != 0
            && region.guest_phys_addr < end
            && address < region_end
    }

    /// Finds the address in the VMM of `len` bytes, not 0, that the guest can write at `address`.
    pub(crate) fn find(&self, address: u64, len: u64) -> Result<u64, Status> {
        let slot = self
            .slots
            .iter()
            .find(|slot| slot.contains(address))
            .ok_or(Status::NotRam)?;
        let offset = address - slot.guest;

        if len > slot.size - offset {
            return Err(Status::CrossesSlot);
        }
        for (flag, status) in [
            (KVM_MEM_READONLY, Status::ReadOnly),
            (KVM_MEM_GUEST_MEMFD, Status::Private),
            (KVM_MEM_LOG_DIRTY_PAGES, Status::DirtyLogging),
        ] {
            if slot.flags & flag != 0 {
                return Err(status);
            }
        }
        slot.user.checked_add(offset).ok_or(Status::NotRam)
    }
}
