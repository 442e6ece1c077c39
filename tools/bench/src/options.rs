// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How to measure cases: where, and how much of each.

use std::{path::PathBuf, time::Duration};

use mini_guest::{JobKind, Pattern};
use vmm::cpus::CpuList;

use super::case::{Case, Target};

/// The largest number of sends, or exits, in a row on one device.
const PIECE: u32 = 50;
/// The same for each vCPU of a storm. All of a vCPU's exits must fit into the trace.
const PIECE_STORM: u32 = 250;
/// The least number of pieces, if there are as many sends. It is even, so that every device is as often first.
const PIECES_MIN: u32 = 4;
/// So many fewer events where each has to wait for other threads' turns.
const TURNS: u32 = 6;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The devices to compare, the first is what the others are compared with.
    pub devices: Vec<PathBuf>,
    /// The CPUs to use.
    pub cpus: CpuList,
    /// Whether the guest shall use KVM's paravirtual EOI.
    pub pv_eoi: bool,
    /// The time for each case and device after which it ends with fewer events than wanted, if it is limited. A few
    /// pieces are always measured.
    pub limit: Option<Duration>,
}

impl Options {
    /// The number of vCPUs on the CPU that has the most of them.
    pub fn overcommit(&self, case: &Case) -> usize {
        let cpus = case.place().cpus(&self.cpus, case.vcpus);
        cpus.iter()
            .map(|cpu| cpus.iter().filter(|&other| other == cpu).count())
            .max()
            .unwrap_or(0)
    }

    /// The number of sends, by each vCPU in a storm, that give about `events` events.
    pub fn sends(&self, case: &Case, events: u32) -> u32 {
        let targets = match (case.kind, case.pattern) {
            (JobKind::Ipi, Pattern::Broadcast) => case.vcpus as u32 - 1,
            (JobKind::Storm, _) => return events.div_ceil(case.vcpus as u32),
            _ => 1,
        };
        events.div_ceil(targets * self.turns(case))
    }

    /// The number of pieces on each device.
    pub fn rounds(&self, case: &Case, sends: u32) -> u32 {
        let piece = match (case.kind, self.turns(case)) {
            (JobKind::Storm, _) => PIECE_STORM,
            (_, 1) => PIECE,
            // It takes as long as there are turns, and all of the sender's exits must fit into the trace, too.
            _ => PIECE.div_ceil(self.overcommit(case) as u32),
        };
        sends.div_ceil(piece).max(PIECES_MIN).min(sends)
    }

    /// How many fewer events do, because each takes so much longer.
    ///
    /// Targets that share a CPU and do not sleep have to wait for each other's turns, of some milliseconds each.
    fn turns(&self, case: &Case) -> u32 {
        match (case.target, self.overcommit(case)) {
            (Target::None | Target::Halted, _) | (_, ..2) => 1,
            _ => TURNS,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{exit_plan, ipi_plan, Extent};

    fn options(cpus: &str) -> Options {
        Options {
            devices: Vec::new(),
            cpus: cpus.parse().unwrap(),
            pv_eoi: true,
            limit: None,
        }
    }

    pub fn plan() -> Vec<Case> {
        ipi_plan(&Extent {
            unicast: vec![2],
            broadcast: vec![16],
            preempted: vec![3],
            storm: vec![8],
            full: true,
        })
    }

    #[test]
    fn broadcasts_and_turns_need_fewer_sends() {
        let sends = |cpus: &str, pattern, target| {
            let plan = plan();
            let case = plan
                .iter()
                .find(|case| (case.pattern, case.target) == (pattern, target))
                .unwrap();
            options(cpus).sends(case, 900)
        };
        assert_eq!(sends("0-1", Pattern::Unicast, Target::Busy), 900);
        assert_eq!(sends("0", Pattern::Unicast, Target::Busy), 900 / TURNS);
        assert_eq!(sends("0-1", Pattern::Broadcast, Target::Halted), 60);
        assert_eq!(sends("0-1", Pattern::Broadcast, Target::Busy), 60 / TURNS);
        assert_eq!(sends("0-31", Pattern::Broadcast, Target::Busy), 60);
        assert_eq!(
            sends("0-31", Pattern::Unicast, Target::Preempted),
            900 / TURNS
        );
        assert_eq!(options("0").sends(&exit_plan()[0], 900), 900);
    }

    #[test]
    fn pieces_are_small_and_several() {
        let exits = [1, 3, 4, 50, 199, 200, 201, 500];
        assert_eq!(
            exits.map(|sends| options("0").rounds(&exit_plan()[0], sends)),
            [1, 3, 4, 4, 4, 4, 5, 10]
        );
        let plan = plan();
        let rounds = |cpus: &str, target| {
            let case = plan
                .iter()
                .find(|case| case.vcpus == 16 && case.target == target)
                .unwrap();
            options(cpus).rounds(case, 500)
        };
        // Of 4 sends, where 15 targets take turns.
        assert_eq!(rounds("0-1", Target::Busy), 125);
        assert_eq!(rounds("0-1", Target::Halted), 10);
        assert_eq!(rounds("0-31", Target::Busy), 10);
    }
}
