// SPDX-License-Identifier: GPL-2.0

//! Idle CPUs: polling in the guest, polling in the host, sleep. See `Documentation/idle.rst`.
//!
//! The host chooses both windows. It learns neither of posts while the guest polls, nor of work that the scheduler hands
//! over by `TIF_POLLING_NRFLAG`, which is set meanwhile as in the kernel's own polling state.
//!
//! The idle loop calls [`IdleDriver::enter`] again and again while the CPU is idle. Each call takes one step: after a time
//! with interrupts on, a handler may have left work, such as a timer, to the idle loop, which must check before the CPU may
//! sleep. So the next step is kept for the next call, unless the CPU has run another task in between.
//!
//! # Concurrency
//!
//! Only a CPU's idle task writes its descriptor's `guest_state`: it is Polling within [`poll_guest`] and Running everywhere
//! else, so a CPU that goes offline, sleeps, or stops in a panic is kicked. Interrupts that come while it polls are handled
//! in that state. What is posted to the CPU meanwhile waits until they, and the softirqs behind them, are done. In the
//! kernel's own polling state wake-ups and calls of a single CPU wait as well, but multicasts do not. So their sender
//! checks whether the target handles an interrupt, see `polls_late` in `sender.rs`.
//!
//! Vectors that are found by polling are handled without an interrupt. Reschedule stands for a flag that the idle loop
//! checks anyway. For the call-function vectors the idle loop ends, and runs what is queued for the CPU. Vectors of
//! devices, which only a VMM can have posted, are sent on as interrupts from the CPU to itself.

use kernel::{
    prelude::*,
    sync::Arc, //
};
use kernel_ext_cpu::cpuidle::{
    Idle,
    IdleDriver,
    PollEnd,
    Refusal,
    Registration, //
};
use pvirq_protocol::{
    Descriptor,
    IdleEnd, //
};

use crate::{
    arch::{
        Receive,
        Received, //
    },
    counters::IdleEvent,
    cpus::Cpu,
    guest::Guest,
    host::Host,
    idle_state::Step, //
};

/// Registers the driver by which CPUs poll once they are added to it. Returns `None` if that is not possible; the log
/// says why.
pub(crate) fn register(guest: Arc<Guest>) -> Result<Option<Registration<Guest>>> {
    match Registration::register(guest) {
        Ok(registration) => Ok(Some(registration)),
        Err(Refusal::Overridden) => {
            pr_info!("the kernel's command line has idle=: idle CPUs do not poll for posts\n");
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
            .index(idle.cpu())
            .and_then(|id| Some((self.cpus.get(idle.cpu())?, self.descriptor(id)?)));
        let Some((cpu, descriptor)) = found else {
            return idle.halt();
        };

        self.registration.announce_if_new(cpu.announced());
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

/// Polls the CPU's own descriptor, and returns the next step.
#[inline]
fn poll_guest(idle: &Idle, cpu: &Cpu, descriptor: &Descriptor, ns: u32) -> Step {
    // The host closes the window if other tasks want the CPU.
    let closed = || descriptor.guest_poll_ns() == 0;
    let (end, vectors) = descriptor.poll(
        || idle.poll(ns.into(), || descriptor.has_pending() || closed()),
        |end| *end == PollEnd::Found,
    );
    let found = vectors.iter().any(|vectors| !vectors.is_empty());

    for vectors in vectors {
        descriptor.count_drained(&vectors);
        Received::receive(idle, vectors);
    }
    let (event, next) = match end {
        _ if found => (IdleEvent::GuestPosted, Step::PollGuest),
        PollEnd::Expired => (IdleEvent::GuestExpired, Step::PollHost),
        PollEnd::Found if closed() => (IdleEvent::GuestExpired, Step::PollHost),
        // Another drain, perhaps the host's, has taken what was pending.
        PollEnd::Found | PollEnd::Work => (IdleEvent::GuestWork, Step::PollGuest),
    };
    if next == Step::PollGuest {
        descriptor.count_idle_hit();
    }
    cpu.counters().count_idle(event);
    next
}

/// Makes the idle call, and returns the next step.
#[inline]
fn poll_host(host: &Host, idle: &Idle, cpu: &Cpu, descriptor: &Descriptor) -> Step {
    // If no host answers, the CPU halts.
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
