// SPDX-License-Identifier: GPL-2.0

//! The run loop of a vCPU, see [`vcpu`](super).

use kernel::{
    prelude::*,
    sync::rcu, //
};
use kernel_ext::fs::ioctl::Ioctl;
use kvm_glue::Running;
use pvirq_protocol::{
    ioctl::EndReason,
    registers::Status,
    HostState,
    Vectors, //
};

use super::{
    registers::Action,
    Vcpu, //
};
use crate::arch::{
    Access,
    GuestAccess,
    Inject,
    MsiInjector,
    RunArea, //
};

impl Vcpu {
    /// Serves `KVM_RUN`: runs the vCPU until an exit that the VMM must handle.
    ///
    /// As long as the vCPU is untracked, this costs next to nothing: its descriptor, if there is one, says `Running`,
    /// and senders kick it. An access to the guest interface makes it tracked.
    #[inline(always)]
    pub(crate) fn run(&self, request: Ioctl<'_>) -> Result<isize> {
        self.target.runs.add(1);
        if self.target.begin_untracked() {
            let result = self.real.ioctl(request);
            self.target.end_untracked();
            let kicked = self.target.is_tracked() && self.take_kick(&result);
            if !kicked && (result.is_err() || !self.guest_access()) {
                return result;
            }
            self.target.set_tracked();
        }
        self.run_tracked(request)
    }

    /// Runs the vCPU as [`Vcpu::run`] does, and publishes its state for senders.
    fn run_tracked(&self, request: Ioctl<'_>) -> Result<isize> {
        let _turn = self.turn.lock()?;
        let running = self.target.kicker.enter();
        let run = || self.run_for_vmm(&running, request);
        let result = self.vm.notifiers.notify(self, run);

        self.leave(&result);
        result
    }

    /// Sets the state for the return of `result` to the VMM.
    #[inline]
    fn leave(&self, result: &Result<isize>) {
        if result.is_ok() && self.real.completes_on_entry() {
            self.with_descriptor(|descriptor| descriptor.set_host_state(HostState::Outside));
        } else {
            self.inject_pending();
        }
    }

    /// Runs the vCPU until an exit that the VMM must handle.
    fn run_for_vmm(&self, running: &Running<'_>, request: Ioctl<'_>) -> Result<isize> {
        loop {
            self.inject_pending();
            let result = self.real.ioctl(request);
            let kicked = running.is_kicked() && self.take_kick(&result);

            if !kicked && (result.is_err() || !self.guest_access()) {
                return result;
            }
        }
    }

    /// Sets the state `Running`, and injects the pending vectors: the vCPU is about to enter the guest, or may be
    /// saved. Only the thread that has the turn may call this.
    #[inline]
    pub(super) fn inject_pending(&self) {
        if self.target.has_kicks() {
            self.inject_kicks();
        }
        let guard = rcu::read_lock();
        let Some(descriptors) = self.vm.descriptors.get(&guard) else {
            return;
        };
        let Some(descriptor) = descriptors.get(self.target.id) else {
            return;
        };
        // In another process KVM does not run the vCPU, and nothing can be injected.
        if !descriptors.injector().is_current() {
            return;
        }
        let vectors = descriptor.leave(HostState::Running);
        if vectors.is_empty() {
            return;
        }
        let injector = descriptors.injector().clone();
        guard.unlock();

        self.inject(vectors, &injector);
        self.with_descriptor(|descriptor| descriptor.publish(&self.counters.get()));
    }

    /// Injects the vectors that the vCPU has been [kicked](crate::vm::kick_target::KickTarget::kick) for.
    #[cold]
    fn inject_kicks(&self) {
        let injector = self.vm.kicks().filter(|injector| injector.is_current());

        // There is no injector if the VMM has closed the VM's file, which ends all bindings.
        if let Some(injector) = injector {
            self.inject(self.target.take_kicks(), &injector);
        }
    }

    fn inject(&self, mut vectors: Vectors, injector: &MsiInjector) {
        let reserved = vectors.remove_reserved();

        self.counters.drains.add(1);
        self.counters.dropped_reserved.add(reserved.into());
        for vector in vectors {
            // If the VMM has unmapped the injector's memory, its guest loses the interrupt.
            let sent = injector.send(self.target.id, self.target.id, vector);
            if sent.is_ok() {
                self.counters.injected.add(1);
            }
        }
    }

    /// Takes the kicks of the current thread, and returns whether only they made `KVM_RUN` return: it returned `EINTR`,
    /// and there is no signal, no task work and no `immediate_exit`.
    #[cold]
    fn take_kick(&self, result: &Result<isize>) -> bool {
        let no_signal = self.target.kicker.take();
        let interrupted = matches!(result, Err(err) if *err == EINTR);
        let immediate = self.area.as_ref().is_none_or(RunArea::immediate_exit);

        interrupted && no_signal && !immediate
    }

    /// Serves the access to the guest interface that made the vCPU exit. Returns whether it was one.
    #[inline(always)]
    fn guest_access(&self) -> bool {
        let Some(area) = &self.area else {
            return false;
        };
        let Some(access) = area.access(self.ports) else {
            return false;
        };
        self.serve(area, access);
        true
    }

    /// Serves an access to the guest interface. Out of line, to keep all other exits short.
    #[cold]
    fn serve(&self, area: &RunArea, access: Access) {
        match access {
            Access::Malformed => area.answer_absent(),
            Access::Read(offset) => {
                let registers = self.registers.lock();
                let value = registers.read(&self.vm.irqchip, self.vm.epoch(), offset);
                area.answer(value);
            }
            Access::Write(offset, value) => {
                let action = self.registers.lock().write(offset, value);
                let status = match action {
                    Action::None => return,
                    Action::Fail(status) => status,
                    Action::Register(array) => status_of(self.vm.register(array)),
                    Action::Unregister if self.vm.end(EndReason::Unregistered) => Status::Ok,
                    Action::Unregister => Status::NotRegistered,
                    Action::Idle => self.idle(),
                };
                self.registers.lock().set_status(status);
            }
        }
    }
}

/// Returns the status that the guest reads after a command.
fn status_of(result: Result<(), Status>) -> Status {
    result.err().unwrap_or(Status::Ok)
}
