// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What wake-ups cost in one mode at one interval.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use exit_count::usage::Usage;
use mini_guest::JobKind;
use pvirq_protocol::ioctl::Poll;
use vmm::{error::Error, machine::Machine, vcpu::Counts};

use crate::ipi::Measurement;

/// The vCPU that is idle, and woken.
pub const TARGET: usize = 1;

/// What was measured in one mode at one point.
#[derive(Clone, Debug, Default)]
pub struct Wakeups {
    /// How pvirq polled, if it did.
    pub poll: Option<Poll>,
    /// Delivery, exits, and for each wake-up the cycles that it took.
    pub measurement: Measurement,
    /// What the target's thread has used.
    pub usage: Usage,
    /// The target's idle periods that ended in the guest's window, in the host's, and in a halt.
    pub periods: [u64; 3],
    /// The halts that ended while KVM polled.
    pub halt_polls: u64,
    /// How long KVM has polled.
    pub halt_polled: Duration,
    /// How long the guest has polled.
    pub guest_polled: Duration,
    /// The time from the first wake-up to the last of each job, and the number of intervals in it.
    pub span: Duration,
    /// See `span`.
    pub intervals: u64,
    /// How long a cycle of the guest's clock takes.
    pub ns_per_cycle: f64,
}

impl Wakeups {
    /// Takes what a job left.
    pub fn collect(
        machine: &Machine,
        poll: Option<Poll>,
        counts: &[Counts],
    ) -> Result<Self, Error> {
        let measurement = Measurement::collect(machine, JobKind::Wake, counts)?;
        let shared = machine.shared()?;
        let idle = &shared.slots[TARGET].idle;
        let time = |cycles: u64| {
            let khz = f64::from(machine.tsc_khz());
            Duration::from_secs_f64(cycles as f64 / khz / 1000.0)
        };
        Ok(Wakeups {
            poll,
            usage: counts[TARGET].usage,
            periods: [&idle.in_guest, &idle.in_host, &idle.in_halt].map(|count| count.load(SeqCst)),
            halt_polls: counts[TARGET].statistics.halt_polls,
            halt_polled: Duration::from_nanos(counts[TARGET].statistics.halt_polled_ns),
            guest_polled: time(idle.polled.load(SeqCst)),
            span: time(shared.span.load(SeqCst)),
            ns_per_cycle: 1e6 / f64::from(machine.tsc_khz()),
            intervals: measurement.delivered.saturating_sub(1),
            measurement,
        })
    }

    /// Adds what was measured later.
    pub fn add(&mut self, more: Wakeups) {
        self.poll = more.poll;
        self.measurement.add(more.measurement);
        self.usage += more.usage;
        for (count, more) in self.periods.iter_mut().zip(more.periods) {
            *count += more;
        }
        self.halt_polls += more.halt_polls;
        self.halt_polled += more.halt_polled;
        self.guest_polled += more.guest_polled;
        self.span += more.span;
        self.intervals += more.intervals;
        self.ns_per_cycle = more.ns_per_cycle;
    }
}
