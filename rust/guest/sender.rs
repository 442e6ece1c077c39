// SPDX-License-Identifier: GPL-2.0

//! Interrupts from CPU to CPU: posted, or sent natively.

use kernel::{
    cpu::CpuId,
    prelude::*,
    sync::Arc, //
};
use kernel_ext_cpu::{
    cpu_timer::CpuTimers,
    ipi::{
        Ipi,
        IpiSender,
        Sent, //
    },
    kvm::yield_to,
    topology::handles_interrupt, //
};
use pvirq_protocol::{
    Descriptor,
    Posted,
    Vector, //
};

use crate::{
    checks::Promised,
    counters::Outcome,
    guest::Guest, //
};

/// Posts the interrupts that CPUs send each other.
pub(crate) struct Sender {
    pub(crate) guest: Arc<Guest>,
    /// The timers of CPUs that have left an interrupt to the host.
    pub(crate) promises: Arc<CpuTimers<Promised>>,
}

impl IpiSender for Sender {
    #[inline]
    fn send(&self, ipi: Ipi, target: CpuId) -> Sent {
        let guest = &*self.guest;
        let outcome = guest.post(ipi, target);

        if let Some(cpu) = guest.cpus.get(CpuId::current()) {
            cpu.counters().count(ipi, outcome);
        }
        if outcome.relies_on_host() {
            self.promises.arm_by_interrupt();
        }
        match outcome {
            Outcome::Kicked | Outcome::Unposted => Sent::Native,
            // The sender does not yield to an idle CPU, as `kvm_smp_send_call_func_ipi()` does not.
            Outcome::ElidedPreempted if !guest.is_idle(target) => Sent::Waiting,
            _ => Sent::Done,
        }
    }

    fn multicast_waits_for(&self, target: CpuId) {
        // As `kvm_smp_send_call_func_ipi()` does. Otherwise the sender would spin while its target
        // waits for a CPU, perhaps the same one.
        if self.guest.yields && yield_to(target) {
            if let Some(cpu) = self.guest.cpus.get(CpuId::current()) {
                cpu.counters().count_yield();
            }
        }
    }

    fn is_still_called(&self) {
        pr_warn!("another module has replaced smp_ops after this one: waiting until it is unloaded first\n");
    }
}

impl Guest {
    /// Returns whether a CPU is idle, in this module's driver.
    fn is_idle(&self, cpu: CpuId) -> bool {
        self.cpus.get(cpu).is_some_and(|cpu| cpu.idle().is_idle())
    }

    /// Posts an interrupt. Unless the outcome is [`Outcome::Kicked`] or [`Outcome::Unposted`], the
    /// target will take it.
    #[inline]
    fn post(&self, ipi: Ipi, target: CpuId) -> Outcome {
        let Ok(vector) = Vector::new(ipi.vector()) else {
            return Outcome::Unposted;
        };
        let descriptor = self
            .cpus
            .index(target)
            .and_then(|index| self.descriptor(index));
        let Some(descriptor) = descriptor else {
            return Outcome::Unposted;
        };
        // To a single CPU that polls, the kernel sends nothing. Only senders of multicasts expect an interrupt.
        if ipi == Ipi::CallFunction && polls_late(descriptor, target) {
            return Outcome::Kicked;
        }
        let mut pickup = None;
        let posted: Posted = descriptor.post_and_tell(vector, |found| pickup = Some(found));

        Outcome::of(posted, pickup)
    }
}

/// Returns whether a CPU was interrupted while it polled, and so polls again only after the handler and softirqs.
#[inline]
fn polls_late(descriptor: &Descriptor, target: CpuId) -> bool {
    // `handles_interrupt` reads a cache line that the target writes, so it comes last.
    descriptor.guest_state().will_poll()
        && !descriptor.host_state().will_poll()
        && handles_interrupt(target)
}
