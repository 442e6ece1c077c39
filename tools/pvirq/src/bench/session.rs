// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Measuring cases on several devices in turn.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mini_guest::{Answer, Job, Mode, Pattern, Rest, Work};
use pvirq_protocol::{ioctl::Poll, port::Status};

use super::{
    case::{Case, HaltPoll, Scene, Target},
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

/// What the host says if it has taken the guest's descriptors.
const REGISTERED: Answer = Answer::Host(Status::Ok);

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

/// How long the host polls for targets that let it, and how long the sender waits until it does.
const POLL: Duration = Duration::from_nanos(Poll::MAX_NS as u64);

/// The largest number of sends, or exits, in a row on one device.
const PIECE: u32 = 50;
/// The same for each vCPU of a storm. All of a vCPU's exits must fit into the trace.
const PIECE_STORM: u32 = 250;
/// The longest rest of a vCPU in a storm.
const STORM_REST: Duration = Duration::from_micros(100);
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
}

/// Who wants to know how far it is.
pub trait Progress {
    /// Cases begin that are measured in turn.
    fn scene(&mut self, scene: &Scene);
    /// A piece is done.
    fn piece(&mut self);
    /// There is something to say.
    fn note(&mut self, text: &str);
}

/// A machine that waits for jobs.
struct Ready {
    machine: Machine,
    cpus: Vec<usize>,
    halt_poll: HaltPoll,
}

/// A device and the machines on it.
struct Subject {
    device: Device,
    /// One whose guest has not registered, and one whose guest has.
    machines: [Option<Ready>; 2],
}

impl Subject {
    fn is_baseline(&self) -> bool {
        self.device.path() == Path::new(KVM)
    }
}

/// What was measured for a case on a device.
pub struct Measured {
    /// The case.
    pub case: Case,
    /// The device's number.
    pub device: usize,
    /// What was measured.
    pub measurement: Measurement,
}

/// A run of cases on several devices.
pub struct Session {
    options: Options,
    image: Image,
    subjects: Vec<Subject>,
    /// On which devices the guest can register, once that has been tried.
    posting: Option<Vec<bool>>,
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
                machines: [None, None],
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
            posting: None,
            baseline: Baseline::default(),
        })
    }

    /// How guests fared on KVM's own device.
    pub fn baseline(&self) -> Baseline {
        self.baseline
    }

    /// Whether there is a device on which the guest can register with a pvirq host.
    pub fn finds_pvirq(&mut self, progress: &mut dyn Progress) -> Result<bool, Error> {
        Ok(self.posting(progress)?.contains(&true))
    }

    /// Tries where the guest can register. It need not say why not: the host does not have to have pvirq.
    fn posting(&mut self, progress: &mut dyn Progress) -> Result<&[bool], Error> {
        let posting = match self.posting.take() {
            Some(posting) => posting,
            None => (0..self.subjects.len())
                .map(|index| {
                    self.retry(index, &"registration", progress, |session| {
                        let cpus = session.options.cpus.in_turn(1);
                        let mut machine = session.boot(index, &cpus)?;
                        Ok(machine.register(JOB_LIMIT)? == REGISTERED)
                    })
                })
                .collect::<Result<_, Error>>()?,
        };
        Ok(self.posting.insert(posting))
    }

    /// Which of the cases can be measured on which devices, by their numbers.
    fn pairs(
        &mut self,
        scene: &[Case],
        progress: &mut dyn Progress,
    ) -> Result<Vec<(Case, usize)>, Error> {
        let mut pairs = Vec::new();
        for case in scene {
            for device in 0..self.subjects.len() {
                if !case.posts() || self.posting(progress)?[device] {
                    pairs.push((*case, device));
                }
            }
        }
        Ok(pairs)
    }

    /// The number of pieces that [measuring](Self::measure) the cases of a scene takes.
    pub fn pieces(
        &mut self,
        scene: &[Case],
        events: u32,
        progress: &mut dyn Progress,
    ) -> Result<u32, Error> {
        let pairs = self.pairs(scene, progress)?;
        Ok(pairs
            .iter()
            .map(|(case, _)| self.rounds(case, self.sends(case, events)))
            .sum())
    }

    /// The number of sends, by each vCPU in a storm, that give about `events` events.
    fn sends(&self, case: &Case, events: u32) -> u32 {
        let targets = match (case.work, case.pattern) {
            (Work::Ipi, Pattern::Broadcast) => case.vcpus as u32 - 1,
            (Work::Storm, _) => return events.div_ceil(case.vcpus as u32),
            _ => 1,
        };
        events.div_ceil(targets * self.turns(case))
    }

    /// The number of pieces on each device.
    fn rounds(&self, case: &Case, sends: u32) -> u32 {
        let piece = match (case.work, self.turns(case)) {
            (Work::Storm, _) => PIECE_STORM,
            (_, 1) => PIECE,
            // It takes as long as there are turns, and all of the sender's exits must fit into the trace, too.
            _ => PIECE.div_ceil(self.options.overcommit(case) as u32),
        };
        sends.div_ceil(piece).max(PIECES_MIN).min(sends)
    }

    /// How many fewer events do, because each takes so much longer.
    ///
    /// Targets that share a CPU and do not sleep have to wait for each other's turns, of some milliseconds each.
    fn turns(&self, case: &Case) -> u32 {
        match (case.target, self.options.overcommit(case)) {
            (Target::None | Target::Halted, _) | (_, ..2) => 1,
            _ => TURNS,
        }
    }

    /// Measures the cases of a scene on all devices, with about `events` events on each, where they can be measured.
    pub fn measure(
        &mut self,
        scene: &[Case],
        events: u32,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Measured>, Error> {
        let Some(first) = scene.first() else {
            return Ok(Vec::new());
        };
        progress.scene(&first.scene());
        let pairs = self.pairs(scene, progress)?;
        let mut measurements = vec![Measurement::default(); pairs.len()];
        // Mechanisms make no difference to this.
        let sends = self.sends(first, events);
        let rounds = self.rounds(first, sends);

        let start = Instant::now();
        for round in 0..rounds {
            let late = self
                .options
                .limit
                .is_some_and(|limit| start.elapsed() > limit * pairs.len() as u32);
            if late && round >= PIECES_LATE {
                pairs.iter().for_each(|_| progress.piece());
                continue;
            }
            // The first rounds are longer by one if it does not divide.
            let sends = sends / rounds + u32::from(round < sends % rounds);
            let order: Vec<usize> = match round % 2 {
                0 => (0..pairs.len()).collect(),
                _ => (0..pairs.len()).rev().collect(),
            };
            for index in order {
                let (case, device) = &pairs[index];
                let piece = self.piece(*device, case, sends, round, progress);
                let piece = piece.inspect_err(|_| {
                    let device = self.subjects[*device].device.path().display();
                    progress.note(&format!("{device}: {case}, piece {round}: failed"));
                })?;
                if (piece.lost, piece.duplicates) != (0, 0) {
                    let device = self.subjects[*device].device.path().display();
                    progress.note(&format!(
                        "{device}: {case}, piece {round}: {} interrupts were lost, {} came again\n{}",
                        piece.lost, piece.duplicates, piece.console
                    ));
                }
                measurements[index].add(piece);
                progress.piece();
            }
        }
        let measured = pairs
            .into_iter()
            .zip(measurements)
            .map(|((case, device), measurement)| Measured {
                case,
                device,
                measurement,
            });
        Ok(measured.collect())
    }

    /// Measures a piece of a case on one device.
    fn piece(
        &mut self,
        index: usize,
        case: &Case,
        sends: u32,
        round: u32,
        progress: &mut dyn Progress,
    ) -> Result<Measurement, Error> {
        self.retry(index, case, progress, |session| {
            session
                .try_piece(index, case, sends, round)
                .inspect_err(|_| {
                    session.subjects[index].machines[usize::from(case.posts())] = None;
                })
        })
    }

    /// Gives a guest something to do, again if it fails on the baseline.
    fn retry<T>(
        &mut self,
        index: usize,
        what: &dyn fmt::Display,
        progress: &mut dyn Progress,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let baseline = self.subjects[index].is_baseline();
        let mut failures = 0;
        loop {
            self.baseline.runs += u32::from(baseline);
            let error = match attempt(self) {
                Err(error) if baseline && error.is_guest_failure() => error,
                result => return result,
            };
            self.baseline.failures += 1;
            failures += 1;
            if failures > RETRIES {
                return Err(error);
            }
            progress.note(&format!(
                "{KVM}: {what}: the guest failed, trying again: {error}"
            ));
        }
    }

    /// Makes a machine that waits for jobs.
    fn boot(&self, index: usize, cpus: &[usize]) -> Result<Machine, Error> {
        let config = Config {
            image: &self.image,
            memory: MEMORY,
            cpus,
            mode: Mode::Jobs,
            pv_eoi: self.options.pv_eoi,
            count: true,
        };
        let mut machine = Machine::new(&self.subjects[index].device, &config)?;
        machine.run_job(None, JOB_LIMIT)?;
        Ok(machine)
    }

    fn try_piece(
        &mut self,
        index: usize,
        case: &Case,
        sends: u32,
        round: u32,
    ) -> Result<Measurement, Error> {
        let cpus = case.place().cpus(&self.options.cpus, case.vcpus);
        let which = usize::from(case.posts());
        let reusable = |ready: &Ready| ready.cpus == cpus && ready.halt_poll <= case.halt_poll;

        let kept = self.subjects[index].machines[which].take_if(|ready| reusable(ready));
        let fresh = kept.is_none();
        // The old one goes before the new one comes.
        self.subjects[index].machines[which] = None;
        let ready = match kept {
            Some(ready) => ready,
            None => {
                let mut machine = self.boot(index, &cpus)?;
                if case.posts() {
                    // For targets that let the host poll: for long, so that they are found at it.
                    machine.set_poll(&Poll::fixed(Poll::MAX_NS))?;
                    register(&mut machine)?;
                }
                Ready {
                    machine,
                    cpus,
                    halt_poll: HaltPoll::Default,
                }
            }
        };
        let ready = self.subjects[index].machines[which].insert(ready);
        let machine = &mut ready.machine;

        if case.halt_poll == HaltPoll::Zero && ready.halt_poll != HaltPoll::Zero {
            machine.set_halt_poll(0)?;
            ready.halt_poll = HaltPoll::Zero;
        }
        let job = job(case, sends, round, machine.tsc_khz());
        if fresh {
            // What happens once only, such as first accesses to memory, is not part of the measurement.
            machine.run_job(Some(&Job { sends: 2, ..job }), JOB_LIMIT)?;
        }
        let counts = machine.run_job(Some(&job), JOB_LIMIT)?;
        Measurement::collect(machine, case.work, &counts)
    }
}

/// Lets a guest register that is known to be able to.
fn register(machine: &mut Machine) -> Result<(), Error> {
    match machine.register(JOB_LIMIT)? {
        REGISTERED => Ok(()),
        answer => Err(Error::NotRegistered(answer)),
    }
}

/// The job of a piece.
fn job(case: &Case, sends: u32, round: u32, tsc_khz: u32) -> Job {
    let cycles = |time: Duration| time.as_micros() as u64 * u64::from(tsc_khz) / 1000;
    Job {
        work: case.work,
        mechanism: case.mechanism,
        pattern: case.pattern,
        rest: case.rest(),
        sends,
        gap: match case.work {
            Work::Storm => cycles(STORM_REST),
            _ if case.rest() == Rest::PollingHost => cycles(POLL),
            _ if case.target.halts() => cycles(GAP),
            _ => 0,
        },
        // The same for all devices and mechanisms.
        seed: round.into(),
        patience: cycles(PATIENCE),
    }
}

#[cfg(test)]
mod tests {
    use mini_guest::Mechanism;

    use super::*;
    use crate::bench::{exit_plan, ipi_plan, Extent};

    fn session(cpus: &str) -> Session {
        let options = Options {
            devices: Vec::new(),
            cpus: cpus.parse().unwrap(),
            pv_eoi: true,
            limit: None,
        };
        Session::new(options).unwrap()
    }

    fn plan() -> Vec<Case> {
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
            session(cpus).sends(case, 900)
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
        assert_eq!(session("0").sends(&exit_plan()[0], 900), 900);
    }

    #[test]
    fn pieces_are_small_and_several() {
        let exits = [1, 3, 4, 50, 199, 200, 201, 500];
        assert_eq!(
            exits.map(|sends| session("0").rounds(&exit_plan()[0], sends)),
            [1, 3, 4, 4, 4, 4, 5, 10]
        );
        let plan = plan();
        let rounds = |cpus: &str, target| {
            let case = plan
                .iter()
                .find(|case| case.vcpus == 16 && case.target == target)
                .unwrap();
            session(cpus).rounds(case, 500)
        };
        // Of 4 sends, where 15 targets take turns.
        assert_eq!(rounds("0-1", Target::Busy), 125);
        assert_eq!(rounds("0-1", Target::Halted), 10);
        assert_eq!(rounds("0-31", Target::Busy), 10);
    }

    #[test]
    fn jobs_give_targets_time_to_halt_only_if_they_do() {
        for case in plan() {
            let job = job(&case, 5, 1, 2_000_000);
            let gap = match (case.target, case.mechanism) {
                (Target::PollingHost, Mechanism::Pvirq) => 20_000_000,
                (Target::Halted | Target::Mixed | Target::PollingHost, _) => 200_000,
                _ => 0,
            };
            assert_eq!(job.gap, gap, "{case}");
            assert_eq!((job.patience, job.sends), (120_000_000_000, 5));
        }
    }
}
