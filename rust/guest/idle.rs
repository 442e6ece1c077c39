// SPDX-License-Identifier: GPL-2.0

//! Idle CPUs: polling in the guest, polling in the host, sleep. See `Documentation/idle.rst`.
//!
//! Both windows are the host's to choose, and it is told of neither what comes while the guest polls
//! nor what the scheduler does by `TIF_POLLING_NRFLAG`, which is set meanwhile as in the kernel's own
//! polling state.
//!
//! The idle loop calls [`IdleDriver::enter`] again and again while the CPU is idle. Each call takes
//! one step: after a time with interrupts on, a handler may have left a timer to the idle loop, which
//! has to look before the CPU may sleep. So the next step is kept for the next call, unless the CPU
//! has done something else in between.
//!
//! # Concurrency
//!
//! A CPU's descriptor's `guest_state` is its idle task's alone: it is Polling within [`poll_guest`]
//! and Running everywhere else, so that a CPU that goes offline, sleeps, or stops in a panic is kicked. (Interrupts
//! that come while it polls run in that state. What is posted to the CPU meanwhile waits until they, and the softirqs
//! behind them, are done. So do wake-ups and calls of one CPU in the kernel's own polling state, but not multicasts. The
//! sender of those looks whether the target handles an interrupt, see `looks_late` in `sender.rs`.)
//!
//! A vector that is found by polling is handled without an interrupt. Reschedule is one that says to
//! look at a flag that the idle loop looks at anyway. For the call-function vectors the idle loop is
//! left, where it runs what is queued for the CPU. Any other, which only a VMM can have posted, is
//! sent on as an interrupt from the CPU to itself.

use kernel::{
    bindings,
    prelude::*,
    sync::Arc, //
};
use kernel_ext_cpu::{
    cpuidle::{
        Idle,
        IdleDriver,
        PollEnd,
        Refusal,
        Registration, //
    },
    ipi::{
        is_of_devices,
        Ipi, //
    }, //
};
use pvirq_protocol::{
    Descriptor,
    IdleEnd,
    Vectors, //
};

use crate::{
    counters::IdleEvent,
    cpus::Cpu,
    guest::Guest,
    host::Host,
    idle_state::Step, //
};

/// Makes idle CPUs poll from when they are added on; nothing if they cannot, for which the log has
/// the reason.
pub(crate) fn register(guest: Arc<Guest>) -> Result<Option<Registration<Guest>>> {
    match Registration::register(guest) {
        Ok(registration) => Ok(Some(registration)),
        Err(Refusal::Overridden) => {
            pr_info!("the kernel's command line says how CPUs idle: they do not poll for posts\n");
            Ok(None)
        }
        Err(Refusal::Off) => {
            pr_info!("the kernel has no cpuidle: idle CPUs do not poll for posts\n");
            Ok(None)
        }
        Err(Refusal::Taken(driver)) => {
            pr_info!("the cpuidle driver {driver} stays: idle CPUs do not poll for posts\n");
            Ok(None)
        }
        Err(Refusal::Failed(err)) => Err(err),
    }
}

impl IdleDriver for Guest {
    const NAME: &'static CStr = c"pvirq";
    const DESCRIPTION: &'static CStr = c"poll for posts, then sleep";

    #[inline]
    fn enter(&self, idle: &Idle) {
        let found = self
            .cpus
            .apic_id(idle.cpu())
            .and_then(|id| Some((self.cpus.get(idle.cpu())?, self.descriptor(id)?)));
        let Some((cpu, descriptor)) = found else {
            return idle.halt();
        };

        self.registration.greet_if_new(cpu.greeted());
        cpu.idle().set_idle(true);
        self.take_step(idle, cpu, descriptor);
        cpu.idle().set_idle(false);
    }
}

impl Guest {
    /// Takes the next step of an idle period.
    #[inline]
    fn take_step(&self, idle: &Idle, cpu: &Cpu, descriptor: &Descriptor) {
        let period = idle.period();
        let mut step = cpu.idle().step(period);

        if step == Step::PollGuest {
            match descriptor.guest_poll_ns() {
                0 => step = Step::PollHost,
                ns => {
                    let next = poll_guest(idle, cpu, descriptor, ns);
                    return cpu.idle().set_step(period, next);
                }
            }
        }
        if step == Step::PollHost && self.host().has_idle() && descriptor.host_poll_ns() != 0 {
            let next = poll_host(self.host(), idle, cpu, descriptor);
            return cpu.idle().set_step(period, next);
        }
        cpu.counters().count_idle(IdleEvent::Halt);
        cpu.idle().set_step(period, Step::PollGuest);
        idle.halt();
    }
}

/// Polls the CPU's own descriptor, and returns what is next.
#[inline]
fn poll_guest(idle: &Idle, cpu: &Cpu, descriptor: &Descriptor, ns: u32) -> Step {
    // The host takes the window away if others want the CPU.
    let taken_away = || descriptor.guest_poll_ns() == 0;
    let (end, vectors) = descriptor.poll(
        || idle.poll(ns.into(), || descriptor.has_pending() || taken_away()),
        |end| *end == PollEnd::Found,
    );
    let found = vectors.iter().any(|vectors| !vectors.is_empty());

    for vectors in vectors {
        descriptor.count_drained(&vectors);
        handle(idle, vectors);
    }
    let (event, next) = match end {
        _ if found => (IdleEvent::GuestPosted, Step::PollGuest),
        PollEnd::Expired => (IdleEvent::GuestExpired, Step::PollHost),
        PollEnd::Found if taken_away() => (IdleEvent::GuestExpired, Step::PollHost),
        // Somebody else, the host perhaps, has drained what was seen.
        PollEnd::Found | PollEnd::Work => (IdleEvent::GuestWork, Step::PollGuest),
    };
    if next == Step::PollGuest {
        descriptor.count_idle_hit();
    }
    cpu.counters().count_idle(event);
    next
}

/// Handles vectors that have been taken from the CPU's own descriptor.
#[inline]
fn handle(idle: &Idle, mut vectors: Vectors) {
    let _reserved = vectors.remove_reserved();

    for vector in vectors {
        match u32::from(vector.get()) {
            // It says that a flag is set. The idle loop looks.
            bindings::RESCHEDULE_VECTOR => {}
            bindings::CALL_FUNCTION_VECTOR | bindings::CALL_FUNCTION_SINGLE_VECTOR => {
                idle.run_queued_calls();
            }
            _ if is_of_devices(vector.get()) => idle.interrupt_self(vector.get()),
            // None can have posted the others, and they do more than to interrupt.
            _ => {}
        }
    }
}

/// Lets the host poll, and returns what is next.
#[inline]
fn poll_host(host: &Host, idle: &Idle, cpu: &Cpu, descriptor: &Descriptor) -> Step {
    // If no host answers, the CPU sleeps.
    descriptor.set_idle_end(IdleEnd::Expired);
    host.idle(idle);
    let end = descriptor.idle_end();

    cpu.counters().count_idle(match end {
        IdleEnd::Expired => IdleEvent::HostExpired,
        IdleEnd::Posted => IdleEvent::HostPosted,
        IdleEnd::Event => IdleEvent::HostEvent,
        IdleEnd::Contended => IdleEvent::HostContended,
    });
    match end.may_halt() {
        true => Step::Halt,
        false => Step::PollGuest,
    }
}

/// All vectors of the kernel's own are told apart above.
const _: () = {
    let [a, b, c] = Ipi::ALL;
    assert!(a.vector() as u32 == bindings::RESCHEDULE_VECTOR);
    assert!(b.vector() as u32 == bindings::CALL_FUNCTION_VECTOR);
    assert!(c.vector() as u32 == bindings::CALL_FUNCTION_SINGLE_VECTOR);
};
