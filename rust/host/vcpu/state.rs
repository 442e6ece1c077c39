// SPDX-License-Identifier: GPL-2.0

//! The vCPU's state as its VMM saves and replaces it.
//!
//! Posted vectors are in the guest's memory or the host's, and move to the vCPU's interrupt controller when the vCPU
//! enters the guest. They move there also before the VMM reads the interrupt controller to save the vCPU: with KVM
//! alone, they would have been there all the time.
//!
//! A VMM that replaces the state of a vCPU which has run resets the guest or restores a snapshot. The guest then does
//! not know of its registration any more, or knows one that the host does not have, so the registration ends. To set
//! the state of a vCPU that has never run ends nothing, as for CPU hotplug; nor does a debugger that writes back what
//! it has read.
//!
//! # Concurrency
//!
//! Like KVM's, these calls wait for a vCPU that is in `KVM_RUN`, and can be killed meanwhile. If the vCPU is untracked,
//! the wait is KVM's.

use kernel::prelude::*;
use kernel_ext::{
    fs::ioctl::Ioctl,
    sync::killable::KillableGuard, //
};
use pvirq_protocol::ioctl::EndReason;

use super::{
    registers::Registers,
    Vcpu, //
};
use crate::arch::{
    State,
    VcpuState, //
};

impl Vcpu {
    /// Waits until no thread runs the vCPU. Returns `None` if it is untracked, or KVM is going to refuse the call.
    fn take_turn(&self) -> Result<Option<KillableGuard<'_>>> {
        (self.target.is_tracked() && self.real.is_callers())
            .then(|| self.turn.lock())
            .transpose()
    }

    /// Forwards a call by which the VMM saves state of the vCPU, after posted vectors have been injected into it.
    #[cold]
    pub(crate) fn save(&self, request: Ioctl<'_>) -> Result<isize> {
        let turn = self.take_turn()?;

        if turn.is_some() {
            self.inject_pending();
        }
        self.real.ioctl(request)
    }

    /// Forwards a call that writes registers, and ends the registration if it resets a vCPU that has run.
    #[cold]
    pub(crate) fn set_registers(&self, request: Ioctl<'_>) -> Result<isize> {
        let _turn = self.take_turn()?;

        if self.runs() > 0 && State::resets(&self.real, request) {
            self.end_registration();
        }
        self.real.ioctl(request)
    }

    /// Forwards a call that replaces the vCPU's state. If the vCPU has run, vectors that were posted before belong to
    /// the old state, and the registration ends.
    #[cold]
    pub(crate) fn replace(&self, request: Ioctl<'_>) -> Result<isize> {
        let turn = self.take_turn()?;

        if self.runs() > 0 {
            if turn.is_some() {
                self.inject_pending();
            }
            self.end_registration();
            *self.registers.lock() = Registers::new();
        }
        self.real.ioctl(request)
    }

    /// Ends the guest's registration, because a vCPU's state is replaced.
    fn end_registration(&self) {
        if !self.vm.descriptors.is_empty() && self.real.is_callers() {
            self.vm.end(EndReason::StateReplaced);
        }
    }
}
