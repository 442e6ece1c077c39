// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How much of each case is measured.

use mini_guest::{JobKind, Pattern};
use vmm::cpus::CpuList;

use super::case::Case;
use crate::{session::overcommit, target::Target};

/// The largest number of sends, or exits, in a row on one device.
const PIECE: u32 = 50;
/// The same for each vCPU of a storm. All of a vCPU's exits must fit into the trace.
const PIECE_STORM: u32 = 250;
/// The least number of pieces, if there are as many sends. It is even, so that every device is as often first.
const PIECES_MIN: u32 = 4;
/// So many fewer events where each has to wait for other threads' turns.
const TURNS: u32 = 6;

/// How much of a case is measured on some CPUs.
pub struct Size<'a> {
    case: &'a Case,
    /// The number of vCPUs on the CPU that has the most of them.
    overcommit: usize,
}

impl<'a> Size<'a> {
    /// The size of a case.
    pub fn of(cpus: &CpuList, case: &'a Case) -> Self {
        let overcommit = overcommit(&case.place().cpus(cpus, case.vcpus));
        Size { case, overcommit }
    }

    /// The number of sends, by each vCPU in a storm, that give about `events` events.
    pub fn sends(&self, events: u32) -> u32 {
        let targets = match (self.case.kind, self.case.pattern) {
            (JobKind::Ipi, Pattern::Broadcast) => self.case.vcpus as u32 - 1,
            (JobKind::Storm, _) => return events.div_ceil(self.case.vcpus as u32),
            _ => 1,
        };
        events.div_ceil(targets * self.turns())
    }

    /// The number of pieces on each device.
    pub fn rounds(&self, sends: u32) -> u32 {
        let piece = match (self.case.kind, self.turns()) {
            (JobKind::Storm, _) => PIECE_STORM,
            (_, 1) => PIECE,
            // It takes as long as there are turns, and all of the sender's exits must fit into the trace, too.
            _ => PIECE.div_ceil(self.overcommit as u32),
        };
        sends.div_ceil(piece).max(PIECES_MIN).min(sends)
    }

    /// How many fewer events do, because each takes so much longer.
    ///
    /// Targets that share a CPU and do not sleep have to wait for each other's turns, of some milliseconds each.
    fn turns(&self) -> u32 {
        match (self.case.target, self.overcommit) {
            (Target::None | Target::Halted, _) | (_, ..2) => 1,
            _ => TURNS,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ipi::case::{exit_plan, ipi_plan, Extent};

    fn cpus(list: &str) -> CpuList {
        list.parse().unwrap()
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
        let sends = |list: &str, pattern, target| {
            let plan = plan();
            let case = plan
                .iter()
                .find(|case| (case.pattern, case.target) == (pattern, target))
                .unwrap();
            Size::of(&cpus(list), case).sends(900)
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
        assert_eq!(Size::of(&cpus("0"), &exit_plan()[0]).sends(900), 900);
    }

    #[test]
    fn pieces_are_small_and_several() {
        let exits = [1, 3, 4, 50, 199, 200, 201, 500];
        assert_eq!(
            exits.map(|sends| Size::of(&cpus("0"), &exit_plan()[0]).rounds(sends)),
            [1, 3, 4, 4, 4, 4, 5, 10]
        );
        let plan = plan();
        let rounds = |list: &str, target| {
            let case = plan
                .iter()
                .find(|case| case.vcpus == 16 && case.target == target)
                .unwrap();
            Size::of(&cpus(list), case).rounds(500)
        };
        // Of 4 sends, where 15 targets take turns.
        assert_eq!(rounds("0-1", Target::Busy), 125);
        assert_eq!(rounds("0-1", Target::Halted), 10);
        assert_eq!(rounds("0-31", Target::Busy), 10);
    }
}
