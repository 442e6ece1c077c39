// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is measured of interrupts from devices: by which mechanism, and of which signals.

use mini_guest::{IdleMode, DEVICE_VECTORS, IPI_VECTOR};
use pvirq::device::{KVM, PVIRQ};
use pvirq_protocol::ioctl::BottomHalfKind;

use crate::case::Target;

/// How the signal gets to the vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injection {
    /// KVM's irqfd, with a route to an MSI.
    Irqfd,
    /// pvirq, which kicks the vCPU if it will not poll. Without a sink there is no bottom half.
    Posted,
    /// pvirq, with a bottom half that signals KVM's irqfd if the vCPU will not poll.
    PostedOrSink(BottomHalfKind),
    /// A post by the VMM itself, which signals a bound eventfd if the vCPU has to be kicked.
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

/// Who signals the eventfds, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signals {
    /// A `write` to each, all of them for the same vector.
    OneVector,
    /// A `write` to each, and each for a vector of its own, as far as there are enough.
    Vectors,
    /// The kernel, all of them in one system call: they belong to the completions of asynchronous reads.
    Kernel,
}

impl Signals {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Signals::OneVector => "burst",
            Signals::Vectors => "vectors",
            Signals::Kernel => "kernel",
        }
    }
}

/// Something to measure by each mechanism.
#[derive(Clone, Copy, Debug)]
pub struct InjectCase {
    /// What the target does until it is interrupted.
    pub target: Target,
    /// How many sources are signalled one right after the other.
    pub burst: u32,
    /// How.
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

    pub(super) fn idle_mode(self) -> IdleMode {
        match self.target {
            Target::Halted => IdleMode::Halted,
            Target::PollingGuest => IdleMode::Polling,
            Target::PollingHost => IdleMode::PollingHost,
            _ => IdleMode::Busy,
        }
    }
}

/// The cases of `pvirq bench inject`.
pub fn inject_plan() -> Vec<InjectCase> {
    let mut plan = Vec::new();
    for target in [
        Target::Busy,
        Target::Halted,
        Target::PollingGuest,
        Target::PollingHost,
        Target::Preempted,
    ] {
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
