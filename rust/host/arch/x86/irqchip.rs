// SPDX-License-Identifier: GPL-2.0

//! A VM's local APICs, as its VMM has told KVM.

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

/// With this capability there are local APICs in the kernel, as with [`KVM_CREATE_IRQCHIP`].
const KVM_CAP_SPLIT_IRQCHIP: u32 = 121;

/// With this capability, and this bit in `args[0]`, messages can have APIC IDs of 32 bits.
const KVM_CAP_X2APIC_API: u32 = 129;
const KVM_X2APIC_API_USE_32BIT_IDS: u64 = 1 << 0;
/// With this bit as well, the ID 255 is that of one APIC.
const KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: u64 = 1 << 1;

/// The flags of [`KVM_CAP_X2APIC_API`] with which a message reaches one APIC, whatever its ID. With the first alone, 255
/// still means all of them.
const LONG_APIC_ID_FLAGS: u64 =
    KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;

/// The APIC IDs that a message reaches if the VMM has not enabled longer ones. The last of 8 bits means all of them.
const SHORT_APIC_IDS: u32 = 255;

/// What KVM knows of a VM's local APICs.
pub(crate) struct Irqchip {
    /// Whether they are in KVM.
    lapics: Atomic<bool>,
    /// The flags of [`KVM_CAP_X2APIC_API`] that the VMM has enabled.
    x2apic_api: Atomic<u64>,
    /// Whether the guest's memory is its own: the VM is not of KVM's default type.
    pub(crate) is_private: bool,
}

impl Irqchip {
    /// The type of VM that `KVM_CREATE_VM` makes of the argument 0. The others keep their memory from the host.
    const KVM_X86_DEFAULT_VM: usize = 0;

    /// One more than the highest APIC ID: `KVM_MAX_VCPU_IDS` of `arch/x86/include/asm/kvm_host.h`.
    pub(crate) const MAX_IDS: u32 = 4096;

    /// Makes that of a VM that KVM has made with this type.
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
                // KVM takes none of them back.
                let flags = self.x2apic_api.load(Relaxed) | capability.args[0];
                self.x2apic_api.store(flags, Relaxed);
            }
            _ => {}
        }
    }

    fn is_ready(&self) -> bool {
        self.lapics.load(Relaxed)
    }

    fn max_descriptors(&self) -> u32 {
        match self.x2apic_api.load(Relaxed) & LONG_APIC_ID_FLAGS {
            LONG_APIC_ID_FLAGS => Self::MAX_IDS,
            _ => SHORT_APIC_IDS,
        }
    }
}
