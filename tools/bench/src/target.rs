// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the vCPUs that are interrupted do meanwhile, and where they are.

use mini_guest::IdleMode;
use vmm::cpus::CpuList;

/// How long KVM polls before a halted vCPU sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HaltPoll {
    /// As the host's administrator left it.
    Default,
    /// Not at all.
    Zero,
}

/// What a target does while it is not interrupted, or where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// There is none.
    None,
    /// It computes.
    Busy,
    /// It halts.
    Halted,
    /// It is idle, and polls its descriptor.
    PollingGuest,
    /// It is idle, and its host polls for it; where there is no such host, it halts.
    PollingHost,
    /// Some targets are busy, some halt, some poll.
    Mixed,
    /// It is busy, and nearly always another target has its CPU when it is interrupted.
    Preempted,
}

impl Target {
    /// All of them but none.
    pub const ALL: [Target; 6] = [
        Target::Busy,
        Target::Halted,
        Target::PollingGuest,
        Target::PollingHost,
        Target::Mixed,
        Target::Preempted,
    ];

    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Target::None => "none",
            Target::Busy => "busy",
            Target::Halted => "halted",
            Target::PollingGuest => "polling-guest",
            Target::PollingHost => "polling-host",
            Target::Mixed => "mixed",
            Target::Preempted => "preempted",
        }
    }

    /// What the guest's targets are told to do, where the host polls if the guest `posts`.
    pub fn idle_mode(self, posts: bool) -> IdleMode {
        match self {
            Target::None | Target::Busy | Target::Preempted => IdleMode::Busy,
            Target::PollingGuest => IdleMode::Polling,
            Target::PollingHost if posts => IdleMode::PollingHost,
            Target::Halted | Target::PollingHost => IdleMode::Halted,
            Target::Mixed => IdleMode::Mixed,
        }
    }

    /// Whether there are targets that halt.
    pub fn halts(self) -> bool {
        matches!(self, Target::Halted | Target::Mixed | Target::PollingHost)
    }
}

/// How vCPUs are put on CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The sender has the first for itself, the targets share the rest.
    SenderAlone,
    /// The sender has the first for itself, the targets share the second.
    TargetsTogether,
    /// All share all.
    InTurn,
}

impl Place {
    /// The CPU of each vCPU.
    pub fn cpus(self, cpus: &CpuList, vcpus: usize) -> Vec<usize> {
        match self {
            Place::SenderAlone => cpus.first_alone(vcpus),
            Place::TargetsTogether => cpus.rest_together(vcpus),
            Place::InTurn => cpus.in_turn(vcpus),
        }
    }
}
