// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is measured.

use std::fmt;

use mini_guest::{IdleMode, JobKind, Mechanism, Pattern};
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

/// Something to measure on each device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What the guest does.
    pub kind: JobKind,
    /// Whom it interrupts.
    pub pattern: Pattern,
    /// How it interrupts.
    pub mechanism: Mechanism,
    /// What targets do meanwhile.
    pub target: Target,
    /// How long KVM polls when targets halt.
    pub halt_poll: HaltPoll,
    /// The number of vCPUs, the sender among them.
    pub vcpus: usize,
}

impl Case {
    /// The benchmark's name in results.
    pub fn bench(&self) -> &'static str {
        match self.kind {
            JobKind::Ipi | JobKind::Storm => "ipi",
            _ => "exit",
        }
    }

    /// The case's name in results.
    pub fn name(&self) -> &'static str {
        match (self.kind, self.pattern) {
            (JobKind::Ipi, Pattern::Unicast) => "unicast",
            (JobKind::Ipi, Pattern::Broadcast) => "broadcast",
            (JobKind::Storm, _) => "storm",
            (JobKind::Hypercall, _) => "in-kernel",
            _ => "user-space",
        }
    }

    /// The mechanism's name in results.
    pub fn mechanism(&self) -> &'static str {
        match (self.kind, self.mechanism) {
            (JobKind::Hypercall, _) => "hypercall",
            (JobKind::Ipi | JobKind::Storm, Mechanism::X2Apic) => "x2apic",
            (JobKind::Ipi | JobKind::Storm, Mechanism::PvIpi) => "pv-ipi",
            (JobKind::Ipi | JobKind::Storm, Mechanism::Pvirq) => "pvirq",
            _ => "port",
        }
    }

    /// What the guest's targets are told to do.
    pub fn idle_mode(self) -> IdleMode {
        match (self.target, self.mechanism) {
            (Target::None | Target::Busy | Target::Preempted, _) => IdleMode::Busy,
            (Target::Halted, _) => IdleMode::Halted,
            (Target::PollingGuest, _) => IdleMode::Polling,
            (Target::PollingHost, Mechanism::Pvirq) => IdleMode::PollingHost,
            (Target::PollingHost, _) => IdleMode::Halted,
            (Target::Mixed, _) => IdleMode::Mixed,
        }
    }

    /// Whether the guest has to register with a pvirq host for it.
    pub fn posts(&self) -> bool {
        matches!(self.kind, JobKind::Ipi | JobKind::Storm) && self.mechanism == Mechanism::Pvirq
    }

    /// Where its vCPUs are.
    pub fn place(&self) -> Place {
        match (self.kind, self.target) {
            (JobKind::Storm, _) => Place::InTurn,
            (_, Target::Preempted) => Place::TargetsTogether,
            _ => Place::SenderAlone,
        }
    }

    /// All but the mechanism. What has that in common is measured in turn.
    pub fn group(&self) -> CaseGroup {
        CaseGroup(*self)
    }
}

/// A case whose mechanism does not count.
pub struct CaseGroup(Case);

impl PartialEq for CaseGroup {
    fn eq(&self, other: &Self) -> bool {
        let mechanism = self.0.mechanism;
        self.0
            == Case {
                mechanism,
                ..other.0
            }
    }
}

impl fmt::Display for CaseGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = self.0;
        write!(f, "{} {} {}", case.bench(), case.name(), case.target.name())?;
        if case.halt_poll == HaltPoll::Zero {
            write!(f, " (halt_poll_ns 0)")?;
        }
        write!(f, ", {} vCPUs", case.vcpus)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.group(), self.mechanism())
    }
}

/// How much `pvirq bench ipi` measures: the numbers of vCPUs for each kind of case.
#[derive(Clone, Debug, Default)]
pub struct Extent {
    /// One target at a time.
    pub unicast: Vec<usize>,
    /// All targets at once.
    pub broadcast: Vec<usize>,
    /// One target at a time, of several that share a CPU.
    pub preempted: Vec<usize>,
    /// All to all.
    pub storm: Vec<usize>,
    /// Whether each mechanism is measured with each kind of target, even where it cannot make a difference.
    pub full: bool,
}

/// The cases of `pvirq bench ipi`.
///
/// Those of the same [group](Case::group) follow each other, and so do those that can use the same machines. Cases that
/// leave halt_poll_ns alone come first on a machine, because that cannot be undone.
pub fn ipi_plan(extent: &Extent) -> Vec<Case> {
    use Mechanism::{PvIpi, Pvirq, X2Apic};

    const ALL: &[Mechanism] = &[X2Apic, PvIpi, Pvirq];
    let some = if extent.full { ALL } else { &[X2Apic, Pvirq] };
    let unicast = [
        (Target::Busy, HaltPoll::Default, ALL),
        (Target::Halted, HaltPoll::Default, ALL),
        (Target::PollingGuest, HaltPoll::Default, some),
        (Target::Halted, HaltPoll::Zero, ALL),
        // KVM does not poll where pvirq does.
        (Target::PollingHost, HaltPoll::Zero, some),
    ];
    let mixed = [(Target::Mixed, HaltPoll::Default, some)];
    let broadcast = [unicast.as_slice(), &mixed].concat();
    let preempted = [(Target::Preempted, HaltPoll::Default, some)];

    let mut cases = Vec::new();
    for (sizes, kind, pattern, targets) in [
        (
            &extent.unicast,
            JobKind::Ipi,
            Pattern::Unicast,
            &unicast[..],
        ),
        (
            &extent.broadcast,
            JobKind::Ipi,
            Pattern::Broadcast,
            &broadcast,
        ),
        (
            &extent.preempted,
            JobKind::Ipi,
            Pattern::Unicast,
            &preempted,
        ),
        (&extent.storm, JobKind::Storm, Pattern::Unicast, &mixed),
    ] {
        for &vcpus in sizes {
            for &(target, halt_poll, mechanisms) in targets {
                cases.extend(mechanisms.iter().map(|&mechanism| Case {
                    kind,
                    pattern,
                    mechanism,
                    target,
                    halt_poll,
                    vcpus,
                }));
            }
        }
    }
    cases.sort_by_key(|case| (case.vcpus, case.place(), case.halt_poll));
    cases
}

/// The cases of `pvirq bench exit`: exits that end in user space, and exits that KVM handles.
pub fn exit_plan() -> Vec<Case> {
    let case = |kind| Case {
        kind,
        pattern: Pattern::Unicast,
        mechanism: Mechanism::X2Apic,
        target: Target::None,
        halt_poll: HaltPoll::Default,
        vcpus: 1,
    };
    vec![case(JobKind::Exit), case(JobKind::Hypercall)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(full: bool) -> Extent {
        Extent {
            unicast: vec![2, 16],
            broadcast: vec![4, 16],
            preempted: vec![3, 5],
            storm: vec![8],
            full,
        }
    }

    #[test]
    fn cases_share_machines_and_never_undo_halt_poll() {
        let plan = ipi_plan(&extent(true));
        assert_eq!(plan.len(), (2 * 5 + 2 * 6 + 2 + 1) * 3);
        let key = |case: &Case| (case.vcpus, case.place(), case.halt_poll);
        assert!(plan.windows(2).all(|pair| key(&pair[0]) <= key(&pair[1])));
        assert!(plan.iter().all(|case| {
            matches!(case.target, Target::Halted | Target::PollingHost)
                || case.halt_poll == HaltPoll::Default
        }));
    }

    #[test]
    fn mechanisms_of_a_scene_follow_each_other() {
        let plan = ipi_plan(&extent(false));
        let groups: Vec<_> = plan.chunk_by(|a, b| a.group() == b.group()).collect();
        assert_eq!(groups.len(), 2 * 5 + 2 * 6 + 2 + 1);
        for (index, group) in groups.iter().enumerate() {
            assert!(groups[index + 1..]
                .iter()
                .all(|other| other[0].group() != group[0].group()));
            for mechanism in [Mechanism::X2Apic, Mechanism::Pvirq] {
                assert!(group.iter().any(|case| case.mechanism == mechanism));
            }
        }
    }

    #[test]
    fn names_are_those_of_the_results() {
        let extent = Extent {
            unicast: vec![2],
            ..Default::default()
        };
        let cases: Vec<_> = ipi_plan(&extent).iter().map(Case::to_string).collect();
        assert_eq!(
            cases[6..10],
            [
                "ipi unicast polling-guest, 2 vCPUs by x2apic",
                "ipi unicast polling-guest, 2 vCPUs by pvirq",
                "ipi unicast halted (halt_poll_ns 0), 2 vCPUs by x2apic",
                "ipi unicast halted (halt_poll_ns 0), 2 vCPUs by pv-ipi",
            ]
        );
        assert_eq!(
            [0, 1].map(|index| exit_plan()[index].to_string()),
            [
                "exit user-space none, 1 vCPUs by port",
                "exit in-kernel none, 1 vCPUs by hypercall",
            ]
        );
    }
}
