// SPDX-License-Identifier: GPL-2.0

//! Interrupts from CPU to CPU: posted, or left to the kernel.

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

/// Posts interrupts in place of sending them.
pub(crate) struct Sender {
    pub(crate) guest: Arc<Guest>,
    /// For CPUs that have left an interrupt to the host.
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
            // An idle CPU is not asked for, as in the function that was there before.
            Outcome::ElidedPreempted if !guest.is_idle(target) => Sent::Waiting,
            _ => Sent::Done,
        }
    }

    fn multicast_waits_for(&self, target: CpuId) {
        // As the function that was there before does: without, the sender would spin for as long as
        // the host lets it while its target waits for the CPU, perhaps for the same one.
        if self.guest.yields && yield_to(target) {
            if let Some(cpu) = self.guest.cpus.get(CpuId::current()) {
                cpu.counters().count_yield();
            }
        }
    }

    fn is_still_called(&self) {
        pr_warn!("another module that takes interrupts over was loaded after this one: waiting until it is unloaded first\n");
    }
}

impl Guest {
    /// Returns whether a CPU idles by our driver.
    fn is_idle(&self, cpu: CpuId) -> bool {
        self.cpus.get(cpu).is_some_and(|cpu| cpu.idle().is_idle())
    }

    /// Posts an interrupt. With the exception of [`Outcome::Kicked`] and [`Outcome::Unposted`], the
    /// target is going to take it.
    #[inline]
    fn post(&self, ipi: Ipi, target: CpuId) -> Outcome {
        let Ok(vector) = Vector::new(ipi.vector()) else {
            return Outcome::Unposted;
        };
        let descriptor = self.cpus.apic_id(target).and_then(|id| self.descriptor(id));
        let Some(descriptor) = descriptor else {
            return Outcome::Unposted;
        };
        // One CPU alone is sent nothing by the kernel while it polls; only of multicasts does a sender expect that they
        // interrupt.
        if ipi == Ipi::CallFunction && looks_late(descriptor, target) {
            return Outcome::Kicked;
        }
        let mut pickup = None;
        let posted: Posted = descriptor.post_and_tell(vector, |who| pickup = Some(who));

        Outcome::of(posted, pickup)
    }
}

/// Returns whether a CPU polls and has been interrupted in it, so that it looks when it has handled that and the softirqs
/// behind it.
#[inline]
fn looks_late(descriptor: &Descriptor, target: CpuId) -> bool {
    // What counts interrupts is on a line that the target writes: nothing reads it that would be kicked anyway.
    descriptor.guest_state().will_poll()
        && !descriptor.host_state().will_poll()
        && handles_interrupt(target)
}
