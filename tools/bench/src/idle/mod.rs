// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the idle call is worth, and what it costs others: how soon interrupts are taken that come while the host polls,
//! what is left to a neighbour on the vCPU's CPU, how soon polling gives way to it, and whether any interrupt is missed.

mod arrivals;
mod contention;
mod latency;
mod method;
mod neighbour;
mod task;

pub use self::method::Options;
use crate::bench::AnyBench;

/// A case, and what measures it.
pub struct IdleCase {
    /// The name on the command line and in results.
    pub name: &'static str,
    /// Whether both vCPUs can be on the same CPU.
    pub can_share_cpu: bool,
    /// Prepares to measure it.
    pub prepare: fn(Options) -> Box<dyn AnyBench>,
}

/// All cases.
pub const IDLE_CASES: [IdleCase; 5] = [
    IdleCase {
        name: "timer",
        can_share_cpu: false,
        prepare: |options| Box::new(latency::Latency::of_timer(options)),
    },
    IdleCase {
        name: "irqfd",
        can_share_cpu: false,
        prepare: |options| Box::new(latency::Latency::of_irqfd(options)),
    },
    IdleCase {
        name: "neighbour",
        can_share_cpu: false,
        prepare: |options| Box::new(neighbour::Neighbour::new(options)),
    },
    IdleCase {
        name: "contention",
        can_share_cpu: false,
        prepare: |options| Box::new(contention::Contention(options)),
    },
    IdleCase {
        name: "arrivals",
        can_share_cpu: true,
        prepare: |options| Box::new(arrivals::Arrivals::new(options)),
    },
];
