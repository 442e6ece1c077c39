// SPDX-License-Identifier: GPL-2.0

//! What differs by architecture: the contracts, and the architecture that this module is built for.
//!
//! This is the only file with `cfg(target_arch)`. Another architecture is a folder below `arch/` and a line here.

use kernel::{
    fs::File,
    prelude::*,
    sync::aref::ARef, //
};
use kernel_ext::fs::ioctl::Ioctl;
use kvm_glue::VcpuFile;
use pvirq_protocol::Vector;

use crate::kvm::kvm_enable_cap;

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{
    irqchip::Irqchip,
    msi::MsiInjector,
    ports::Ports,
    run_area::RunArea,
    state::State, //
};

/// An access of a vCPU to the guest interface, at an offset of [`pvirq_protocol::registers`].
pub(crate) enum Access {
    Read(u16),
    Write(u16, u32),
    /// Not one of 32 bits. It reads as if nothing were there.
    Malformed,
}

/// How the guest interface is found in an exit of a vCPU, and answered.
pub(crate) trait GuestAccess {
    /// Where the interface is.
    type Place;

    /// Returns the access that made the vCPU exit, if it was one.
    fn access(&self, place: Self::Place) -> Option<Access>;

    /// Answers a read with `value`.
    fn answer(&self, value: u32);

    /// Answers an access that is malformed.
    fn answer_absent(&self);
}

/// How a posted vector is made pending in a vCPU.
pub(crate) trait Inject: Sized {
    /// Makes one for the VM of KVM's file `vm`, which as many threads as `slots` use at a time.
    fn new(vm: ARef<File>, slots: u32) -> Result<Self>;

    /// Returns whether the current process is the VMM: [`Inject::send`] fails in all others.
    fn is_current(&self) -> bool;

    /// Injects a vector into the vCPU `id`. A slot is for one thread at a time.
    fn send(&self, slot: u32, id: u32, vector: Vector) -> Result;
}

/// What a VMM does to a VM's interrupt controller.
pub(crate) trait VmEvents {
    /// KVM has accepted the ioctl `cmd` on the VM.
    fn note_ioctl(&self, cmd: u32);

    /// KVM has enabled a capability for the VM.
    fn note_capability(&self, capability: &kvm_enable_cap);

    /// Returns whether KVM has an interrupt controller for the VM.
    fn is_ready(&self) -> bool;

    /// Returns how many vCPUs it can address: the longest array of descriptors.
    fn max_descriptors(&self) -> u32;
}

/// What an ioctl does to the state of a vCPU into which posts are delivered.
pub(crate) enum StateCall {
    /// Reads it.
    Save,
    /// Replaces it. A vCPU that has run gets another past.
    Replace,
    /// Replaces registers that tell whether the vCPU is reset, see [`VcpuState::resets`].
    MayReset,
}

/// How a VMM saves and replaces a vCPU's state.
pub(crate) trait VcpuState {
    /// Returns what the ioctl `cmd` does; nothing if posting need not know.
    fn call(cmd: u32) -> Option<StateCall>;

    /// Returns whether `request`, a [`StateCall::MayReset`], resets the vCPU.
    fn resets(vcpu: &VcpuFile, request: Ioctl<'_>) -> bool;
}
