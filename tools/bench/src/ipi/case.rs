// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What `pvirq bench ipi` and `exit` measure.

use std::fmt;

use mini_guest::{IdleMode, JobKind, Mechanism, Pattern};

use crate::target::{HaltPoll, Place, Target};

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
    pub fn idle_mode(&self) -> IdleMode {
        self.target.idle_mode(self.mechanism == Mechanism::Pvirq)
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

    /// Whether another case differs by the mechanism alone.
    fn is_of_group(&self, other: &Self) -> bool {
        let mechanism = self.mechanism;
        *self
            == Case {
                mechanism,
                ..*other
            }
    }
}

/// Cases that differ by the mechanism alone, and are measured in turn.
#[derive(Clone, Debug)]
pub struct CaseGroup(pub Vec<Case>);

impl CaseGroup {
    /// The groups of a plan.
    pub fn of(plan: &[Case]) -> Vec<Self> {
        let groups = plan.chunk_by(Case::is_of_group);
        groups.map(|cases| CaseGroup(cases.to_vec())).collect()
    }

    /// One of its cases: all have the same size.
    pub fn first(&self) -> &Case {
        &self.0[0]
    }
}

impl fmt::Display for CaseGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let case = self.first();
        write!(f, "{} {} {}", case.bench(), case.name(), case.target.name())?;
        if case.halt_poll == HaltPoll::Zero {
            write!(f, " (halt_poll_ns 0)")?;
        }
        write!(f, ", {} vCPUs", case.vcpus)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", CaseGroup(vec![*self]), self.mechanism())
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
/// Those of the same group follow each other, and so do those that can use the same machines. Cases that
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
    fn mechanisms_of_a_group_follow_each_other() {
        let groups = CaseGroup::of(&ipi_plan(&extent(false)));
        assert_eq!(groups.len(), 2 * 5 + 2 * 6 + 2 + 1);
        for (index, group) in groups.iter().enumerate() {
            assert!(groups[index + 1..]
                .iter()
                .all(|other| !other.first().is_of_group(group.first())));
            for mechanism in [Mechanism::X2Apic, Mechanism::Pvirq] {
                assert!(group.0.iter().any(|case| case.mechanism == mechanism));
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
