// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What is measured.

use std::fmt;

use mini_guest::{Mechanism, Pattern, Rest, Work};

/// How long KVM polls before a halted vCPU sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HaltPoll {
    /// As the host's administrator left it.
    Default,
    /// Not at all.
    Zero,
}

/// Something to measure on each device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What the guest does.
    pub work: Work,
    /// Whom it interrupts.
    pub pattern: Pattern,
    /// How it interrupts.
    pub mechanism: Mechanism,
    /// What targets do meanwhile.
    pub rest: Rest,
    /// How long KVM polls when targets halt.
    pub halt_poll: HaltPoll,
    /// The number of vCPUs, the sender among them.
    pub vcpus: usize,
}

impl Case {
    /// The benchmark's name in results.
    pub fn bench(&self) -> &'static str {
        match self.work {
            Work::Ipi => "ipi",
            _ => "exit",
        }
    }

    /// The case's name in results.
    pub fn name(&self) -> &'static str {
        match (self.work, self.pattern) {
            (Work::Ipi, Pattern::Unicast) => "unicast",
            (Work::Ipi, Pattern::Broadcast) => "broadcast",
            _ => "user-space",
        }
    }

    /// The mechanism's name in results.
    pub fn mechanism(&self) -> &'static str {
        match (self.work, self.mechanism) {
            (Work::Ipi, Mechanism::X2Apic) => "x2apic",
            (Work::Ipi, Mechanism::PvIpi) => "pv-ipi",
            _ => "port",
        }
    }

    /// The target's name in results.
    pub fn target(&self) -> &'static str {
        match (self.work, self.rest) {
            (Work::Ipi, Rest::Busy) => "busy",
            (Work::Ipi, Rest::Halted) => "halted",
            _ => "none",
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} {}",
            self.bench(),
            self.name(),
            self.mechanism(),
            self.target()
        )?;
        if self.halt_poll == HaltPoll::Zero {
            write!(f, " (halt_poll_ns 0)")?;
        }
        write!(f, ", {} vCPUs", self.vcpus)
    }
}

/// The cases of `pvirq bench ipi`: every mechanism and every kind of target, on machines of so many vCPUs.
///
/// Cases that can use the same machines follow each other. Those that leave halt_poll_ns alone come first on a machine,
/// because that cannot be undone.
pub fn ipi_plan(unicast: &[usize], broadcast: &[usize]) -> Vec<Case> {
    let patterns = unicast
        .iter()
        .map(|&vcpus| (vcpus, Pattern::Unicast))
        .chain(broadcast.iter().map(|&vcpus| (vcpus, Pattern::Broadcast)));
    let targets = [
        (Rest::Busy, HaltPoll::Default),
        (Rest::Halted, HaltPoll::Default),
        (Rest::Halted, HaltPoll::Zero),
    ];
    let mut cases = Vec::new();
    for (vcpus, pattern) in patterns {
        for (rest, halt_poll) in targets {
            cases.extend([Mechanism::X2Apic, Mechanism::PvIpi].map(|mechanism| Case {
                work: Work::Ipi,
                pattern,
                mechanism,
                rest,
                halt_poll,
                vcpus,
            }));
        }
    }
    cases.sort_by_key(|case| (case.vcpus, case.halt_poll));
    cases
}

/// The case of `pvirq bench exit`.
pub fn exit_plan() -> Vec<Case> {
    vec![Case {
        work: Work::Exit,
        pattern: Pattern::Unicast,
        mechanism: Mechanism::X2Apic,
        rest: Rest::Busy,
        halt_poll: HaltPoll::Default,
        vcpus: 1,
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_share_machines_and_never_undo_halt_poll() {
        let plan = ipi_plan(&[2, 16], &[4, 16]);
        assert_eq!(plan.len(), 4 * 3 * 2);
        assert!(plan
            .windows(2)
            .all(|pair| (pair[0].vcpus, pair[0].halt_poll) <= (pair[1].vcpus, pair[1].halt_poll)));
        assert!(plan
            .iter()
            .all(|case| case.rest == Rest::Halted || case.halt_poll == HaltPoll::Default));
    }

    #[test]
    fn names_are_those_of_the_results() {
        let case = ipi_plan(&[2], &[])[5];
        assert_eq!(
            case.to_string(),
            "ipi unicast pv-ipi halted (halt_poll_ns 0), 2 vCPUs"
        );
        assert_eq!(
            exit_plan()[0].to_string(),
            "exit user-space port none, 1 vCPUs"
        );
    }
}
