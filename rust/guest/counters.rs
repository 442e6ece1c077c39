// SPDX-License-Identifier: GPL-2.0

//! What each CPU counts, and debugfs, which shows it.
//!
//! # Concurrency
//!
//! A CPU counts by itself, with preemption off. Its interrupts' handlers count what they send as well, so that each
//! addition is one instruction ([`LocalCounter`]). Whoever reads gets each number from just now, and no more than that.

use kernel::{
    debugfs::Scope,
    fmt,
    prelude::*,
    sync::Arc, //
};
use kernel_ext_cpu::{
    ipi::Ipi,
    local_counter::LocalCounter, //
};
use pvirq_protocol::{
    HostState,
    Looker,
    Posted, //
};

use crate::Guest;

/// What can become of an interrupt that a CPU sends.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    /// It was pending already.
    Coalesced,
    /// The guest polls.
    ElidedPollingGuest,
    /// The host polls.
    ElidedPollingHost,
    /// The target has been preempted.
    ElidedPreempted,
    /// The target's VMM has it.
    ElidedOutside,
    /// The target does not look, and it was sent natively.
    Kicked,
    /// The target has no descriptor, and it was sent natively.
    Unposted,
}

impl Outcome {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Coalesced, "coalesced"),
        (Self::ElidedPollingGuest, "elided_polling_guest"),
        (Self::ElidedPollingHost, "elided_polling_host"),
        (Self::ElidedPreempted, "elided_preempted"),
        (Self::ElidedOutside, "elided_outside"),
        (Self::Kicked, "kicked"),
        (Self::Unposted, "unposted"),
    ];

    /// Returns whether the interrupt is lost if the host does not do what it has promised. What is pending already may
    /// be left to it, too.
    #[inline]
    pub(crate) fn relies_on_host(self) -> bool {
        matches!(
            self,
            Self::Coalesced | Self::ElidedPollingHost | Self::ElidedPreempted | Self::ElidedOutside
        )
    }

    /// What has become of a post, of which `looker` is who finds it if it was elided.
    pub(crate) fn of(posted: Posted, looker: Option<Looker>) -> Self {
        match (posted, looker) {
            (Posted::Coalesced, _) => Self::Coalesced,
            (Posted::Kick, _) => Self::Kicked,
            (Posted::Elided, Some(Looker::Guest) | None) => Self::ElidedPollingGuest,
            (Posted::Elided, Some(Looker::Host(state))) => match state {
                HostState::Polling => Self::ElidedPollingHost,
                HostState::Preempted => Self::ElidedPreempted,
                HostState::Outside | HostState::Running | HostState::Blocked => Self::ElidedOutside,
            },
        }
    }
}

/// How a step of an idle CPU has ended.
#[derive(Clone, Copy)]
pub(crate) enum IdleEvent {
    /// It has polled, and found a post.
    GuestPosted,
    /// It has polled, and got something else to do.
    GuestWork,
    /// It has polled for as long as it should.
    GuestExpired,
    /// The host has polled, and found a post.
    HostPosted,
    /// The host has polled, and found something else for the CPU.
    HostEvent,
    /// The host has polled for as long as it wanted to.
    HostExpired,
    /// The host had others to run.
    HostContended,
    /// It sleeps.
    Halt,
}

impl IdleEvent {
    const ALL: [(Self, &'static str); 8] = [
        (Self::GuestPosted, "guest_posted"),
        (Self::GuestWork, "guest_work"),
        (Self::GuestExpired, "guest_expired"),
        (Self::HostPosted, "host_posted"),
        (Self::HostEvent, "host_event"),
        (Self::HostExpired, "host_expired"),
        (Self::HostContended, "host_contended"),
        (Self::Halt, "halt"),
    ];
}

/// The names of the interrupts, in the order of their numbers.
const IPIS: [(Ipi, &str); 3] = [
    (Ipi::Reschedule, "reschedule"),
    (Ipi::CallFunction, "call_function"),
    (Ipi::CallFunctionSingle, "call_function_single"),
];

type Outcomes = [LocalCounter; Outcome::ALL.len()];

/// The counters of a CPU.
pub(crate) struct Counters {
    sent: [Outcomes; IPIS.len()],
    idle: [LocalCounter; IdleEvent::ALL.len()],
    yields: LocalCounter,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            sent: core::array::from_fn(|_| core::array::from_fn(|_| LocalCounter::new())),
            idle: core::array::from_fn(|_| LocalCounter::new()),
            yields: LocalCounter::new(),
        }
    }

    /// Counts an interrupt that the CPU has sent.
    #[inline]
    pub(crate) fn count(&self, ipi: Ipi, outcome: Outcome) {
        if let Some(counter) = self.outcomes(ipi).and_then(|all| all.get(outcome as usize)) {
            counter.increment();
        }
    }

    /// Counts a hypercall by which the CPU has made room for a target.
    pub(crate) fn count_yield(&self) {
        self.yields.increment();
    }

    /// Counts a step that the CPU has taken when it was idle. RCU may not watch.
    #[inline]
    pub(crate) fn count_idle(&self, event: IdleEvent) {
        if let Some(counter) = self.idle.get(event as usize) {
            counter.increment();
        }
    }

    fn outcomes(&self, ipi: Ipi) -> Option<&Outcomes> {
        self.sent.get(ipi as usize)
    }
}

/// Shows the counters for as long as the result lives: a file `sent` with a line for each CPU and
/// kind of interrupt, files `idle`, `yields` and `descriptors` with a line for each CPU, and a file `host`.
pub(crate) fn debugfs(guest: Arc<Guest>) -> impl PinInit<Scope<Arc<Guest>>> {
    Scope::dir(guest, c"pvirq_guest", |guest, dir| {
        dir.read_callback_file(c"sent", guest, &|guest, f| show_sent(guest, f));
        dir.read_callback_file(c"idle", guest, &|guest, f| show_idle(guest, f));
        dir.read_callback_file(c"yields", guest, &|guest, f| show_yields(guest, f));
        dir.read_callback_file(c"descriptors", guest, &|guest, f| {
            show_descriptors(guest, f)
        });
        dir.read_callback_file(c"host", guest, &|guest, f| show_host(guest, f));
    })
}

fn show_sent(guest: &Arc<Guest>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "cpu ipi")?;
    for (_, name) in Outcome::ALL {
        write!(f, " {name}")?;
    }
    writeln!(f)?;
    for (number, cpu) in guest.cpus.iter() {
        for (ipi, name) in IPIS {
            let Some(outcomes) = cpu.counters().outcomes(ipi) else {
                continue;
            };
            write!(f, "{number} {name}")?;
            for counter in outcomes {
                write!(f, " {}", counter.get())?;
            }
            writeln!(f)?;
        }
    }
    Ok(())
}

fn show_idle(guest: &Arc<Guest>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "cpu")?;
    for (_, name) in IdleEvent::ALL {
        write!(f, " {name}")?;
    }
    writeln!(f)?;
    for (number, cpu) in guest.cpus.iter() {
        write!(f, "{number}")?;
        for counter in &cpu.counters().idle {
            write!(f, " {}", counter.get())?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn show_yields(guest: &Arc<Guest>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "cpu yields")?;
    for (number, cpu) in guest.cpus.iter() {
        writeln!(f, "{number} {}", cpu.counters().yields.get())?;
    }
    Ok(())
}

fn show_host(guest: &Arc<Guest>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let counts = guest.registration.counts();
    let array = guest.descriptors.array();

    writeln!(f, "registered {}", u32::from(counts.registered))?;
    writeln!(f, "epoch {:#x}", counts.epoch)?;
    writeln!(f, "registrations {}", counts.registrations)?;
    writeln!(f, "losses {}", counts.losses)?;
    writeln!(f, "checks {}", counts.checks)?;
    writeln!(f, "resent {}", counts.resent)?;
    writeln!(f, "address {:#x}", array.address)?;
    writeln!(f, "descriptors {}", array.count)?;
    match counts.refusal {
        None => writeln!(f, "refusal none"),
        Some(refusal) => writeln!(f, "refusal {refusal}"),
    }
}

/// What senders find in the descriptors just now, of the CPUs that can be posted to.
fn show_descriptors(guest: &Arc<Guest>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "cpu apic_id guest host pending")?;
    for (number, id) in guest.cpus.ids() {
        let Some(descriptor) = guest.descriptors.get(id) else {
            continue;
        };
        let (guest, host) = (descriptor.guest_state(), descriptor.host_state());
        let pending = descriptor.pending().len();

        writeln!(f, "{number} {id} {guest:?} {host:?} {pending}")?;
    }
    Ok(())
}
