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
use self::{
    arrivals::Arrivals,
    contention::Contention,
    latency::Latency,
    neighbour::Neighbour, //
};
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
    case("timer", false, |options| {
        Box::new(Latency::of_timer(options))
    }),
    case("irqfd", false, |options| {
        Box::new(Latency::of_irqfd(options))
    }),
    case("neighbour", false, |options| {
        Box::new(Neighbour::new(options))
    }),
    case("contention", false, |options| Box::new(Contention(options))),
    case("arrivals", true, |options| Box::new(Arrivals::new(options))),
];

const fn case(
    name: &'static str,
    can_share_cpu: bool,
    prepare: fn(Options) -> Box<dyn AnyBench>,
) -> IdleCase {
    IdleCase {
        name,
        can_share_cpu,
        prepare,
    }
}
