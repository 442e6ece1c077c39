// SPDX-License-Identifier: GPL-2.0

//! The counters of each CPU.
//!
//! # Concurrency
//!
//! Each CPU has its own, and counts with preemption off. Its interrupt handlers count as well, so each increment is one
//! instruction ([`LocalCounter`]). Readers get each counter's current value, and no consistent snapshot.

use kernel_ext_cpu::{
    ipi::Ipi,
    local_counter::LocalCounter, //
};
use pvirq_protocol::{
    HostState,
    Pickup,
    Posted, //
};

/// The outcome of an interrupt that a CPU sends.
#[derive(Clone, Copy)]
pub(crate) enum Outcome {
    /// The vector was pending already.
    Coalesced,
    /// The target polls.
    ElidedPollingGuest,
    /// The host polls for the target.
    ElidedPollingHost,
    /// The target has been preempted.
    ElidedPreempted,
    /// The target is out of `KVM_RUN`.
    ElidedOutside,
    /// The target will not poll: sent natively.
    Kicked,
    /// The target has no descriptor: sent natively.
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

    /// Returns whether the interrupt is lost if the host does not poll as promised. A vector that was pending already may
    /// depend on the host, too.
    #[inline]
    pub(crate) fn relies_on_host(self) -> bool {
        matches!(
            self,
            Self::Coalesced | Self::ElidedPollingHost | Self::ElidedPreempted | Self::ElidedOutside
        )
    }

    /// Returns the outcome of a post, which has a `pickup` if it was elided.
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

/// The end of a step of an idle CPU.
#[derive(Clone, Copy)]
pub(crate) enum IdleEvent {
    /// Polling in the guest found a post.
    GuestPosted,
    /// Polling in the guest ended by other work.
    GuestWork,
    /// The guest's window was over.
    GuestExpired,
    /// Polling in the host found a post.
    HostPosted,
    /// Polling in the host ended by another event for the vCPU.
    HostEvent,
    /// The host's window was over.
    HostExpired,
    /// Another task wanted the CPU, or the VM had used up its budget.
    HostContended,
    /// The CPU halted.
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

/// The names of the interrupts, in the order of [`Ipi`].
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

    /// Counts a hypercall by which the CPU has yielded to a target.
    pub(crate) fn count_yield(&self) {
        self.yields.increment();
    }

    /// Counts the end of a step of the idle CPU. RCU may not be watching.
    #[inline]
    pub(crate) fn count_idle(&self, event: IdleEvent) {
        if let Some(counter) = self.idle.get(event as usize) {
            counter.increment();
        }
    }

    /// Returns the counters of one kind of interrupt.
    pub(crate) fn outcomes(&self, ipi: Ipi) -> Option<&Outcomes> {
        self.sent.get(ipi as usize)
    }
}
