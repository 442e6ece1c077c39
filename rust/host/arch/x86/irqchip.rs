// SPDX-License-Identifier: GPL-2.0

//! A VM's local APICs, as its VMM has configured them.

use kernel::ioctl::_IO;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

use crate::{
    arch::VmEvents,
    kvm::{
        kvm_enable_cap,
        KVMIO, //
    }, //
};

const KVM_CREATE_IRQCHIP: u32 = _IO(KVMIO, 0x60);

/// This capability puts the local APICs into the kernel, as [`KVM_CREATE_IRQCHIP`] does.
const KVM_CAP_SPLIT_IRQCHIP: u32 = 121;

/// With this capability, and this bit in `args[0]`, MSIs carry APIC IDs of 32 bits.
const KVM_CAP_X2APIC_API: u32 = 129;
const KVM_X2APIC_API_USE_32BIT_IDS: u64 = 1 << 0;
/// With this bit as well, the ID 255 addresses one APIC instead of all.
const KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: u64 = 1 << 1;

/// The flags of [`KVM_CAP_X2APIC_API`] that a VMM must enable for an MSI to reach one APIC of any ID.
const X2APIC_ID_FLAGS: u64 = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;

/// The number of APIC IDs that an MSI reaches without these flags: the last value of 8 bits addresses all APICs.
const XAPIC_IDS: u32 = 255;

/// The configuration of a VM's local APICs.
pub(crate) struct Irqchip {
    /// Whether the local APICs are in the kernel.
    lapics: Atomic<bool>,
    /// The flags of [`KVM_CAP_X2APIC_API`] that the VMM has enabled.
    x2apic_api: Atomic<u64>,
    /// Whether the guest's memory may be private to it: the VM is not of KVM's default type.
    pub(crate) is_private: bool,
}

impl Irqchip {
    /// The argument of `KVM_CREATE_VM` for a VM whose memory the host can access.
    const KVM_X86_DEFAULT_VM: usize = 0;

    /// The number of APIC IDs that can have a descriptor: as many as `KVM_MAX_VCPUS` with `CONFIG_KVM_MAX_NR_VCPUS` at
    /// its maximum. vCPU IDs go further (`KVM_MAX_VCPU_IDS`); a vCPU with a higher one gets no descriptor.
    pub(crate) const MAX_IDS: u32 = 4096;

    /// Returns the configuration of a new VM of the type `vm_type`.
    pub(crate) fn new(vm_type: usize) -> Self {
        Self {
            lapics: Atomic::new(false),
            x2apic_api: Atomic::new(0),
            is_private: vm_type != Self::KVM_X86_DEFAULT_VM,
        }
    }
}

impl VmEvents for Irqchip {
    fn note_ioctl(&self, cmd: u32) {
        if cmd == KVM_CREATE_IRQCHIP {
            self.lapics.store(true, Relaxed);
        }
    }

    fn note_capability(&self, capability: &kvm_enable_cap) {
        match capability.cap {
            KVM_CAP_SPLIT_IRQCHIP => self.lapics.store(true, Relaxed),
            KVM_CAP_X2APIC_API => {
                // KVM never disables one of these flags, and two threads may enable one each.
                let mut old = self.x2apic_api.load(Relaxed);
                while let Err(now) = self
                    .x2apic_api
                    .cmpxchg(old, old | capability.args[0], Relaxed)
                {
                    old = now;
                }
            }
            _ => {}
        }
    }

    fn is_ready(&self) -> bool {
        self.lapics.load(Relaxed)
    }

    fn max_descriptors(&self) -> u32 {
        match self.x2apic_api.load(Relaxed) & X2APIC_ID_FLAGS {
            X2APIC_ID_FLAGS => Self::MAX_IDS,
            _ => XAPIC_IDS,
        }
    }
}
