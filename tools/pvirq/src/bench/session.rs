// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Measuring cases on several devices in turn.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mini_guest::{Job, Mode, Pattern, Rest, Work};

use super::{
    case::{Case, HaltPoll},
    measurement::Measurement,
};
use crate::{
    cpus::CpuList,
    device::{Device, KVM},
    error::Error,
    image::Image,
    machine::{Config, Machine},
};

const MEMORY: usize = 16 << 20;

/// How long an interrupt may take before it counts as lost.
///
/// It is long because of targets that share a CPU. If the host is a virtual machine itself, and its own host does
/// something else for a second, the scheduler bills the target that seemed to run, which then waits until each of the
/// others has had a second as well.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a job may take before the guest counts as hung: the sender gives up before that.
const JOB_LIMIT: Duration = Duration::from_secs(180);
/// How long a halted target is given to fall asleep before it is interrupted.
const GAP: Duration = Duration::from_micros(100);

/// The largest number of sends, or exits, in a row on one device.
const PIECE: u32 = 50;
/// The least number of pieces, if there are as many sends. It is even, so that every device is as often first.
const PIECES_MIN: u32 = 4;
/// The number of pieces after which a case may end because it takes too long.
const PIECES_LATE: u32 = 2;
/// So many fewer events where each has to wait for other threads' turns.
const TURNS: u32 = 6;
/// How often one piece may fail on the baseline.
const RETRIES: u32 = 3;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The devices to compare, the first is what the others are compared with.
    pub devices: Vec<PathBuf>,
    /// The CPUs to use.
    pub cpus: CpuList,
    /// Whether the guest shall use KVM's paravirtual EOI.
    pub pv_eoi: bool,
    /// The time after which a case ends with fewer events than wanted, if it is limited. A few pieces are always
    /// measured.
    pub limit: Option<Duration>,
}

impl Options {
    /// The number of vCPUs on the CPU that has the most of them.
    pub fn overcommit(&self, vcpus: usize) -> usize {
        let cpus = self.cpus.first_alone(vcpus);
        cpus.iter()
            .map(|cpu| cpus.iter().filter(|&other| other == cpu).count())
            .max()
            .unwrap_or(0)
    }
}

/// Who wants to know how far it is.
pub trait Progress {
    /// A case begins, so many pieces long.
    fn case(&mut self, case: &Case);
    /// A piece is done.
    fn piece(&mut self);
    /// There is something to say.
    fn note(&mut self, text: &str);
}

/// A device and the machine on it.
struct Subject {
    device: Device,
    machine: Option<Machine>,
    halt_poll: HaltPoll,
}

impl Subject {
    fn is_baseline(&self) -> bool {
        self.device.path() == Path::new(KVM)
    }
}

/// A run of cases on several devices.
pub struct Session {
    options: Options,
    image: Image,
    subjects: Vec<Subject>,
    baseline: Baseline,
}

/// How guests fared on KVM's own device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Baseline {
    /// How often they were given something to do.
    pub runs: u32,
    /// How often they failed, and were run again.
    pub failures: u32,
}

impl Session {
    /// Opens the devices.
    pub fn new(options: Options) -> Result<Self, Error> {
        let open = |path: &PathBuf| {
            Ok(Subject {
                device: Device::open(path)?,
                machine: None,
                halt_poll: HaltPoll::Default,
            })
        };
        let subjects = options
            .devices
            .iter()
            .map(open)
            .collect::<Result<_, Error>>()?;
        Ok(Session {
            options,
            image: Image::mini_guest(),
            subjects,
            baseline: Baseline::default(),
        })
    }

    /// How guests fared on KVM's own device.
    pub fn baseline(&self) -> Baseline {
        self.baseline
    }

    /// The number of pieces of a case, on all devices.
    pub fn pieces(&self, case: &Case, events: u32) -> u32 {
        rounds(self.sends(case, events)) * self.subjects.len() as u32
    }

    /// The number of sends that give about `events` events.
    fn sends(&self, case: &Case, events: u32) -> u32 {
        let targets = match (case.work, case.pattern) {
            (Work::Ipi, Pattern::Broadcast) => case.vcpus as u32 - 1,
            _ => 1,
        };
        events.div_ceil(targets * self.turns(case))
    }

    /// How many fewer events do, because each takes so much longer.
    ///
    /// Busy targets that share a CPU have to wait for each other's turns, of some milliseconds each.
    fn turns(&self, case: &Case) -> u32 {
        match (case.rest, self.options.overcommit(case.vcpus) as u32) {
            (Rest::Busy, 2..) => TURNS,
            _ => 1,
        }
    }

    /// Measures a case on all devices, with about `events` events on each.
    pub fn measure(
        &mut self,
        case: &Case,
        events: u32,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Measurement>, Error> {
        progress.case(case);
        let mut measurements = vec![Measurement::default(); self.subjects.len()];
        let sends = self.sends(case, events);
        let rounds = rounds(sends);

        let start = Instant::now();
        for round in 0..rounds {
            let late = self
                .options
                .limit
                .is_some_and(|limit| start.elapsed() > limit);
            if late && round >= PIECES_LATE {
                self.subjects.iter().for_each(|_| progress.piece());
                continue;
            }
            // The first rounds are longer by one if it does not divide.
            let sends = sends / rounds + u32::from(round < sends % rounds);
            let order: Vec<usize> = match round % 2 {
                0 => (0..self.subjects.len()).collect(),
                _ => (0..self.subjects.len()).rev().collect(),
            };
            for index in order {
                let piece = self.piece(index, case, sends, progress)?;
                if piece.lost != 0 {
                    let device = self.subjects[index].device.path().display();
                    progress.note(&format!(
                        "{device}: {case}: {} interrupts were lost\n{}",
                        piece.lost, piece.console
                    ));
                }
                measurements[index].add(piece);
                progress.piece();
            }
        }
        Ok(measurements)
    }

    /// Measures a piece of a case on one device, again if the guest fails on the baseline.
    fn piece(
        &mut self,
        index: usize,
        case: &Case,
        sends: u32,
        progress: &mut dyn Progress,
    ) -> Result<Measurement, Error> {
        let baseline = self.subjects[index].is_baseline();
        let mut failures = 0;
        loop {
            self.baseline.runs += u32::from(baseline);
            let error = match self.try_piece(index, case, sends) {
                Err(error) if baseline && error.is_guest_failure() => error,
                result => return result,
            };
            self.subjects[index].machine = None;
            self.baseline.failures += 1;
            failures += 1;
            if failures > RETRIES {
                return Err(error);
            }
            progress.note(&format!(
                "{KVM}: {case}: the guest failed, trying again: {error}"
            ));
        }
    }

    fn try_piece(&mut self, index: usize, case: &Case, sends: u32) -> Result<Measurement, Error> {
        let cpus = self.options.cpus.first_alone(case.vcpus);
        let subject = &mut self.subjects[index];
        let config = Config {
            image: &self.image,
            memory: MEMORY,
            cpus: &cpus,
            mode: Mode::Jobs,
            pv_eoi: self.options.pv_eoi,
            count: true,
        };

        let reusable = |machine: &Machine| {
            machine.vcpus() == case.vcpus && subject.halt_poll <= case.halt_poll
        };
        let fresh = !subject.machine.as_ref().is_some_and(reusable);
        if fresh {
            // The old one goes first.
            subject.machine = None;
            subject.machine = Some(Machine::new(&subject.device, &config)?);
            subject.halt_poll = HaltPoll::Default;
        }
        let Some(machine) = &mut subject.machine else {
            unreachable!("it was just made")
        };
        if fresh {
            machine.run_job(None, JOB_LIMIT)?;
        }
        if case.halt_poll == HaltPoll::Zero && subject.halt_poll != HaltPoll::Zero {
            machine.set_halt_poll(0)?;
            subject.halt_poll = HaltPoll::Zero;
        }
        let job = job(case, sends, machine.tsc_khz());
        if fresh {
            // What happens once only, such as first accesses to memory, is not part of the measurement.
            machine.run_job(Some(&Job { sends: 2, ..job }), JOB_LIMIT)?;
        }
        let counts = machine.run_job(Some(&job), JOB_LIMIT)?;
        Measurement::collect(machine, &counts)
    }
}

/// The number of pieces on each device.
fn rounds(sends: u32) -> u32 {
    sends.div_ceil(PIECE).max(PIECES_MIN).min(sends)
}

/// The job of a piece.
fn job(case: &Case, sends: u32, tsc_khz: u32) -> Job {
    let cycles = |time: Duration| time.as_micros() as u64 * u64::from(tsc_khz) / 1000;
    Job {
        work: case.work,
        mechanism: case.mechanism,
        pattern: case.pattern,
        rest: case.rest,
        sends,
        gap: if case.rest == Rest::Halted {
            cycles(GAP)
        } else {
            0
        },
        patience: cycles(PATIENCE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{exit_plan, ipi_plan};

    fn session(cpus: &str) -> Session {
        let options = Options {
            devices: Vec::new(),
            cpus: cpus.parse().unwrap(),
            pv_eoi: true,
            limit: None,
        };
        Session::new(options).unwrap()
    }

    #[test]
    fn broadcasts_and_turns_need_fewer_sends() {
        let case = |cpus: &str, case| session(cpus).sends(case, 900);
        let plan = ipi_plan(&[2], &[16]);
        let find = |pattern, rest| {
            plan.iter()
                .find(|case| (case.pattern, case.rest) == (pattern, rest))
                .unwrap()
        };
        assert_eq!(case("0-1", find(Pattern::Unicast, Rest::Busy)), 900);
        assert_eq!(case("0", find(Pattern::Unicast, Rest::Busy)), 900 / TURNS);
        assert_eq!(case("0-1", find(Pattern::Broadcast, Rest::Halted)), 60);
        assert_eq!(
            case("0-1", find(Pattern::Broadcast, Rest::Busy)),
            60 / TURNS
        );
        assert_eq!(case("0-31", find(Pattern::Broadcast, Rest::Busy)), 60);
        assert_eq!(case("0", &exit_plan()[0]), 900);
    }

    #[test]
    fn pieces_are_small_and_several() {
        assert_eq!(
            [1, 3, 4, 50, 199, 200, 201, 500].map(rounds),
            [1, 3, 4, 4, 4, 4, 5, 10]
        );
    }

    #[test]
    fn jobs_give_targets_time_to_halt_only_if_they_do() {
        let plan = ipi_plan(&[2], &[]);
        let jobs: Vec<_> = plan.iter().map(|case| job(case, 5, 2_000_000)).collect();
        assert_eq!(
            jobs.iter().map(|job| job.gap).collect::<Vec<_>>(),
            [0, 0, 200_000, 200_000, 200_000, 200_000]
        );
        assert!(jobs
            .iter()
            .all(|job| job.patience == 120_000_000_000 && job.sends == 5));
    }
}
