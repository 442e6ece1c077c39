// SPDX-License-Identifier: GPL-2.0

//! Injection of vectors into a VM's local APICs, by message-signalled interrupts (MSIs).
//!
//! KVM exports no function for that to modules, only the ioctl `KVM_SIGNAL_MSI`, whose argument is in user space. So
//! the messages are in anonymous memory of the VMM: only a thread of that process can send one, and a VMM that writes
//! there harms only its own VM.

use kernel::{
    fs::File,
    ioctl::_IOW,
    prelude::*,
    sync::aref::ARef,
    transmute::AsBytes, //
};
use kernel_ext::{
    fs::file::FileExt,
    mm::user_mapping::UserMapping, //
};
use pvirq_protocol::Vector;

use crate::{
    arch::Inject,
    kvm::KVMIO, //
};

const KVM_SIGNAL_MSI: u32 = _IOW::<[u8; 32]>(KVMIO, 0xa5);

/// The argument of `KVM_SIGNAL_MSI`.
#[repr(C)]
struct KvmMsi {
    address_lo: u32,
    address_hi: u32,
    data: u32,
    flags: u32,
    devid: u32,
    pad: [u8; 12],
}

// SAFETY: All fields are integers, without padding between them.
unsafe impl AsBytes for KvmMsi {}

impl KvmMsi {
    /// Returns a fixed, edge-triggered interrupt to one local APIC in physical mode (Intel SDM 3, 12.11). The upper
    /// bits of an x2APIC ID are where KVM reads them if `KVM_CAP_X2APIC_API` is enabled.
    fn new(apic_id: u32, vector: Vector) -> Self {
        Self {
            address_lo: 0xfee0_0000 | (apic_id & 0xff) << 12,
            address_hi: apic_id & !0xff,
            data: vector.get().into(),
            flags: 0,
            devid: 0,
            pad: [0; 12],
        }
    }
}

/// Injects vectors into the local APICs of a VM, by a message per slot.
///
/// Works in the VMM's process only. If it is dropped elsewhere, the memory stays mapped until that process ends.
pub(crate) struct MsiInjector {
    /// KVM's file of the VM.
    vm: ARef<File>,
    mapping: UserMapping,
}

impl Inject for MsiInjector {
    fn new(vm: ARef<File>, slots: u32) -> Result<Self> {
        let size = (slots as usize)
            .checked_mul(size_of::<KvmMsi>())
            .ok_or(ENOMEM)?;

        Ok(Self {
            vm,
            mapping: UserMapping::anonymous(size)?,
        })
    }

    fn is_current(&self) -> bool {
        self.mapping.is_current()
    }

    /// # Errors
    ///
    /// KVM's errors, and `EFAULT` if the VMM has unmapped the memory or is not the current process.
    fn send(&self, slot: u32, id: u32, vector: Vector) -> Result {
        let offset = (slot as usize).wrapping_mul(size_of::<KvmMsi>());
        let slice = self
            .mapping
            .get(offset, size_of::<KvmMsi>())
            .filter(|_| self.is_current())
            .ok_or(EFAULT)?;

        slice.writer().write(&KvmMsi::new(id, vector))?;
        self.vm.call(KVM_SIGNAL_MSI, self.mapping.address(offset))?;
        Ok(())
    }
}
