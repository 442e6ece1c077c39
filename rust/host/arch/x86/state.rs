// SPDX-License-Identifier: GPL-2.0

//! The ioctls by which a VMM saves and replaces a vCPU's state.

use kernel::ioctl::{
    _IOR,
    _IOW, //
};
use kernel_ext::fs::ioctl::Ioctl;
use kvm_glue::VcpuFile;

use crate::{
    arch::{
        StateCall,
        VcpuState, //
    },
    kvm::KVMIO, //
};

const KVM_SET_SREGS: u32 = _IOW::<[u8; 312]>(KVMIO, 0x84);
/// Its argument begins with that of [`KVM_SET_SREGS`].
const KVM_SET_SREGS2: u32 = _IOW::<[u8; 320]>(KVMIO, 0xcd);
const KVM_GET_LAPIC: u32 = _IOR::<[u8; 1024]>(KVMIO, 0x8e);
const KVM_SET_LAPIC: u32 = _IOW::<[u8; 1024]>(KVMIO, 0x8f);
const KVM_GET_MP_STATE: u32 = _IOR::<u32>(KVMIO, 0x98);
const KVM_GET_VCPU_EVENTS: u32 = _IOR::<[u8; 64]>(KVMIO, 0x9f);

/// The offset of `cr0` in the arguments of [`KVM_SET_SREGS`] and [`KVM_SET_SREGS2`].
const SREGS_CR0: usize = 224;
/// `CR0.PE`: protected mode. A reset clears it.
const CR0_PE: u64 = 1 << 0;

/// The ioctls for the state of an x86 vCPU.
pub(crate) enum State {}

impl VcpuState for State {
    #[inline]
    fn call(cmd: u32) -> Option<StateCall> {
        match cmd {
            KVM_GET_LAPIC | KVM_GET_VCPU_EVENTS | KVM_GET_MP_STATE => Some(StateCall::Save),
            KVM_SET_LAPIC => Some(StateCall::Replace),
            KVM_SET_SREGS | KVM_SET_SREGS2 => Some(StateCall::MayReset),
            _ => None,
        }
    }

    /// A switch from protected mode to real mode is a reset.
    fn resets(vcpu: &VcpuFile, request: Ioctl<'_>) -> bool {
        vcpu.is_in_protected_mode()
            && request
                .read_at::<u64>(SREGS_CR0)
                .is_ok_and(|cr0| cr0 & CR0_PE == 0)
    }
}
