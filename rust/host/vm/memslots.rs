// SPDX-License-Identifier: GPL-2.0

//! A VM's memory slots, as its VMM has set them in KVM.

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

/// A memory slot: where a range of the VM's memory is in the VMM.
#[derive(Clone, Copy)]
struct Slot {
    /// The number of the slot, and in the upper half that of its address space.
    id: u32,
    guest: u64,
    size: u64,
    user: u64,
    /// Flags: `KVM_MEM_*`.
    flags: u32,
}

impl Slot {
    fn contains(&self, address: u64) -> bool {
        address
            .checked_sub(self.guest)
            .is_some_and(|offset| offset < self.size)
    }
}

/// The slots of a VM. KVM has checked that they do not overlap, and that none wraps around.
pub(crate) struct MemSlots {
    slots: KVec<Slot>,
}

impl MemSlots {
    pub(crate) const fn new() -> Self {
        Self { slots: KVec::new() }
    }

    /// Makes room for one more slot, which [`MemSlots::set`] takes.
    pub(crate) fn reserve(&mut self) -> Result {
        Ok(self.slots.reserve(1, GFP_KERNEL_ACCOUNT)?)
    }

    /// Notes that KVM has accepted `region`. [`MemSlots::reserve`] must have made room.
    pub(crate) fn set(&mut self, region: &kvm_userspace_memory_region) {
        // The guest cannot register in the second address space, that of system management mode.
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

    /// Returns whether KVM, once it has accepted `region`, logs writes to any of the `len` bytes at `address`.
    pub(crate) fn logs(region: &kvm_userspace_memory_region, address: u64, len: u64) -> bool {
        let end = address.saturating_add(len);
        let region_end = region.guest_phys_addr.saturating_add(region.memory_size);

        // As for `set`.
        region.slot >> 16 == 0
            && region.flags & KVM_MEM_LOG_DIRTY_PAGES != 0
            && region.guest_phys_addr < end
            && address < region_end
    }

    /// Returns the address in the VMM of the `len` bytes at `address` in the guest, if the guest can write them and KVM
    /// does not log that. `len` is not 0.
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
