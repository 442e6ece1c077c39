// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is measured of interrupts from devices: by which mechanism, and of which signals.

use std::fmt;

use mini_guest::{DEVICE_VECTORS, IPI_VECTOR};
use pvirq::device::{KVM, PVIRQ};
use pvirq_protocol::ioctl::BottomHalfKind;

use crate::target::Target;

/// How the signal gets to the vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// KVM's irqfd, with a route to an MSI.
    Irqfd,
    /// pvirq, which kicks the vCPU if it will not poll. Without a sink there is no bottom half.
    Posted,
    /// pvirq, with a bottom half that signals KVM's irqfd if the vCPU will not poll.
    PostedOrSink(BottomHalfKind),
    /// A post by the VMM itself, which signals a bound eventfd if the vCPU must be kicked.
    Direct,
}

impl Injection {
    /// All of them.
    pub const ALL: [Injection; 5] = [
        Injection::Irqfd,
        Injection::Posted,
        Injection::PostedOrSink(BottomHalfKind::Tasklet),
        Injection::PostedOrSink(BottomHalfKind::Workqueue),
        Injection::Direct,
    ];

    /// The mechanism's name in results.
    pub fn name(self) -> &'static str {
        match self {
            Injection::Irqfd => "irqfd",
            Injection::Posted => "pvirq",
            Injection::PostedOrSink(BottomHalfKind::Workqueue) => "pvirq-workqueue+irqfd",
            Injection::PostedOrSink(_) => "pvirq-tasklet+irqfd",
            Injection::Direct => "pvirq-direct",
        }
    }

    pub(super) fn device(self) -> &'static str {
        match self {
            Injection::Irqfd => KVM,
            _ => PVIRQ,
        }
    }
}

exit_count::named! {
    /// What signals the eventfds, and for which vectors.
    Signals {
        /// A `write` to each, all of them for the same vector.
        OneVector = "burst",
        /// A `write` to each, and each for a vector of its own, as far as there are enough.
        Vectors = "vectors",
        /// The kernel, all of them in one system call: they belong to the completions of asynchronous reads.
        Kernel = "kernel",
    }
}

/// Something to measure by each mechanism.
#[derive(Clone, Copy, Debug)]
pub struct InjectCase {
    /// What the target does until it is interrupted.
    pub target: Target,
    /// How many sources are signalled one right after the other.
    pub burst: u32,
    /// How they are signalled.
    pub signals: Signals,
}

impl InjectCase {
    /// The case's name in results.
    pub fn name(&self) -> String {
        format!("{}-{}", self.signals.name(), self.burst)
    }

    /// Whether there is such a case for a mechanism: the kernel does not post.
    pub fn is_for(&self, injection: Injection) -> bool {
        self.signals != Signals::Kernel || injection != Injection::Direct
    }

    /// The number of vectors that a burst is for.
    fn vectors(&self) -> u32 {
        match self.signals {
            Signals::Vectors => self.burst.min(DEVICE_VECTORS.len() as u32),
            _ => 1,
        }
    }

    /// The vector of a source.
    pub(super) fn vector(&self, index: u32) -> u8 {
        match self.vectors() {
            1 => IPI_VECTOR,
            vectors => DEVICE_VECTORS.start + (index % vectors) as u8,
        }
    }

    /// The number of vCPUs, the first of which does nothing.
    pub(super) fn vcpus(&self) -> usize {
        1 + self.targets() as usize
    }

    /// The number of those that are interrupted: to be preempted, there have to be two on a CPU.
    pub(super) fn targets(&self) -> u32 {
        match self.target {
            Target::Preempted => 2,
            _ => 1,
        }
    }

    /// The number of bursts in a piece of at most so many signals: for each target the same.
    pub(super) fn bursts(&self, signals: u32) -> u32 {
        (signals / self.burst)
            .clamp(1, 50)
            .next_multiple_of(self.targets())
    }
}

impl fmt::Display for InjectCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.target.name(), self.name())
    }
}

/// The targets of `pvirq bench inject`.
pub const TARGETS: [Target; 5] = [
    Target::Busy,
    Target::Halted,
    Target::PollingGuest,
    Target::PollingHost,
    Target::Preempted,
];

/// The cases of `pvirq bench inject`.
pub fn inject_plan() -> Vec<InjectCase> {
    let mut plan = Vec::new();
    for target in TARGETS {
        for burst in [1, 8, 64, 256, 1024] {
            plan.push(InjectCase {
                target,
                burst,
                signals: Signals::OneVector,
            });
        }
        for signals in [Signals::Vectors, Signals::Kernel] {
            plan.push(InjectCase {
                target,
                burst: 64,
                signals,
            });
        }
    }
    plan
}
