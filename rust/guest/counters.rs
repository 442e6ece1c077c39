// SPDX-License-Identifier: GPL-2.0

//! What each CPU counts.
//!
//! # Concurrency
//!
//! A CPU counts by itself, with preemption off. Its interrupts' handlers count what they send as well, so that each
//! addition is one instruction ([`LocalCounter`]). Whoever reads gets each number from just now, and no more than that.

use kernel_ext_cpu::{
    ipi::Ipi,
    local_counter::LocalCounter, //
};
use pvirq_protocol::{
    HostState,
    Pickup,
    Posted, //
};

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
    pub(crate) const ALL: [(Self, &'static str); 7] = [
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

    /// What has become of a post, of which `pickup` is who finds it if it was elided.
    pub(crate) fn of(posted: Posted, pickup: Option<Pickup>) -> Self {
        match (posted, pickup) {
            (Posted::Coalesced, _) => Self::Coalesced,
            (Posted::Kick, _) => Self::Kicked,
            (Posted::Elided, Some(Pickup::Guest) | None) => Self::ElidedPollingGuest,
            (Posted::Elided, Some(Pickup::Host(state))) => match state {
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
    pub(crate) const ALL: [(Self, &'static str); 8] = [
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
pub(crate) const IPIS: [(Ipi, &str); 3] = [
    (Ipi::Reschedule, "reschedule"),
    (Ipi::CallFunction, "call_function"),
    (Ipi::CallFunctionSingle, "call_function_single"),
];

pub(crate) type Outcomes = [LocalCounter; Outcome::ALL.len()];

/// The counters of a CPU.
pub(crate) struct Counters {
    sent: [Outcomes; IPIS.len()],
    pub(crate) idle: [LocalCounter; IdleEvent::ALL.len()],
    pub(crate) yields: LocalCounter,
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

    /// Returns what became of the interrupts of a kind.
    pub(crate) fn outcomes(&self, ipi: Ipi) -> Option<&Outcomes> {
        self.sent.get(ipi as usize)
    }
}
