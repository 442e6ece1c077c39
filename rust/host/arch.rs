// SPDX-License-Identifier: GPL-2.0

//! The contracts with the architecture, and the choice of the one that the module is built for.
//!
//! This is the only file with `cfg(target_arch)`. A new architecture is a folder below `arch/` and a line here. It
//! implements the traits below, and the other methods of the re-exported types that generic code calls.

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
    /// An access of another size than 32 bits, which reads as an absent interface.
    Malformed,
}

/// Decodes and answers accesses to the guest interface in a vCPU's exits.
pub(crate) trait GuestAccess {
    /// Where the guest finds the interface.
    type Place;

    /// Returns the access that made the vCPU exit, if it was one to the interface.
    fn access(&self, place: Self::Place) -> Option<Access>;

    /// Answers a read with `value`.
    fn answer(&self, value: u32);

    /// Answers a malformed access as if there were no interface.
    fn answer_absent(&self);
}

/// Injects posted vectors into vCPUs.
pub(crate) trait Inject: Sized {
    /// Creates an injector for the VM of KVM's file `vm`, for use by up to `slots` threads at a time.
    fn new(vm: ARef<File>, slots: u32) -> Result<Self>;

    /// Returns whether the current process is the VMM. In any other [`Inject::send`] fails.
    fn is_current(&self) -> bool;

    /// Injects a vector into the vCPU `id`. One thread at a time may use a slot.
    fn send(&self, slot: u32, id: u32, vector: Vector) -> Result;
}

/// Tracks how the VMM sets up a VM's interrupt controller.
pub(crate) trait VmEvents {
    /// Notes that KVM has accepted the ioctl `cmd` on the VM.
    fn note_ioctl(&self, cmd: u32);

    /// Notes that KVM has enabled a capability for the VM.
    fn note_capability(&self, capability: &kvm_enable_cap);

    /// Returns whether the VM has an interrupt controller in KVM.
    fn is_ready(&self) -> bool;

    /// Returns how many vCPUs can be addressed, which limits the array of descriptors.
    fn max_descriptors(&self) -> u32;
}

/// What a vCPU's ioctl does to the state that posts are injected into.
pub(crate) enum StateCall {
    /// Reads the state.
    Save,
    /// Replaces the state. A vCPU that has run is reset by that, or restored from a snapshot.
    Replace,
    /// Writes registers by which a reset is detected, see [`VcpuState::resets`].
    MayReset,
}

/// Classifies the ioctls by which a VMM saves and replaces a vCPU's state.
pub(crate) trait VcpuState {
    /// Returns what the ioctl `cmd` does; `None` if it does not concern posting.
    fn call(cmd: u32) -> Option<StateCall>;

    /// Returns whether `request`, a [`StateCall::MayReset`], resets the vCPU.
    fn resets(vcpu: &VcpuFile, request: Ioctl<'_>) -> bool;
}
