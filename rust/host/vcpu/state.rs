// SPDX-License-Identifier: GPL-2.0

//! A vCPU's state, as its VMM saves and replaces it.
//!
//! What is posted is in the guest's memory or in ours, and moves to the vCPU's local APIC when it is entered. A VMM that
//! saves a vCPU reads the local APIC, so it moves there before that; with KVM alone it would have been there all the time.
//!
//! A VMM that replaces the state of a vCPU which has run gives it another past: the vCPU is reset, or a snapshot comes back.
//! Then the guest does not know of its registration any more, or has one that is not the host's, and it ends. A vCPU
//! that has never run has no past: its state may be set at will, as for CPU hotplug. Nor does a debugger that writes back
//! what it has read end anything.
//!
//! # Concurrency
//!
//! These calls wait for a vCPU that is in `KVM_RUN`, as they do in KVM, and are killable meanwhile. If the vCPU is not
//! tracked, KVM does the waiting.

use kernel::prelude::*;
use kernel_ext::{
    ioctl::Ioctl,
    killable::KillableGuard, //
};
use pvirq_protocol::ioctl::EndReason;

use super::Vcpu;
use crate::{
    guest_interface::Registers,
    kvm::{
        CR0_PE,
        SREGS_CR0, //
    },
    vm::read_argument_at, //
};

impl Vcpu {
    /// Waits until no thread runs the vCPU. Returns nothing if it is not tracked, or KVM is going to refuse the call.
    fn take_turn(&self) -> Result<Option<KillableGuard<'_>>> {
        (self.target.looks() && self.real.is_callers())
            .then(|| self.turn.lock())
            .transpose()
    }

    /// Passes on a call by which the VMM saves some of the vCPU's state, with what is posted in it.
    #[cold]
    pub(super) fn save(&self, request: Ioctl<'_>) -> Result<isize> {
        let turn = self.take_turn()?;

        if turn.is_some() {
            self.settle();
        }
        self.real.ioctl(request)
    }

    /// Passes on `KVM_SET_SREGS` or its successor. A vCPU that has run and is taken from protected mode to real mode is reset.
    #[cold]
    pub(super) fn set_sregs(&self, request: Ioctl<'_>) -> Result<isize> {
        let _turn = self.take_turn()?;

        if self.runs() > 0 && self.real.is_in_protected_mode() {
            let cr0 = read_argument_at::<u64>(request, SREGS_CR0);
            if cr0.is_ok_and(|cr0| cr0 & CR0_PE == 0) {
                self.end_registration();
            }
        }
        self.real.ioctl(request)
    }

    /// Passes on `KVM_SET_LAPIC`. That of a vCPU which has run is replaced, and with it what was posted before.
    #[cold]
    pub(super) fn set_lapic(&self, request: Ioctl<'_>) -> Result<isize> {
        let turn = self.take_turn()?;

        if self.runs() > 0 {
            if turn.is_some() {
                self.settle();
            }
            self.end_registration();
            *self.registers.lock() = Registers::new();
        }
        self.real.ioctl(request)
    }

    /// Ends the guest's registration, as the state of one of its vCPUs is replaced.
    fn end_registration(&self) {
        if !self.vm.descriptors.is_empty() && self.real.is_callers() {
            self.vm.end(EndReason::StateReplaced);
        }
    }
}
