// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Measuring cases on several devices in turn.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mini_guest::{Answer, IdleMode, Job, JobKind, Mode};
use pvirq::device::{Device, KVM};
use pvirq_protocol::{ioctl::Poll, registers::Status};
use vmm::{
    error::Error,
    image::Image,
    machine::{Config, Machine},
};

use super::{
    case::{Case, HaltPoll},
    measurement::Measurement,
    options::Options,
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
/// How long a job may take before the guest counts as hung. Only a sender that has to wait for two interrupts that are lost
/// gets there.
const JOB_LIMIT: Duration = Duration::from_secs(180);
/// How long a halted target is given to fall asleep before it is interrupted.
const GAP: Duration = Duration::from_micros(100);

/// How long the host polls for targets that let it, and how long the sender waits until it does.
const POLL: Duration = Duration::from_nanos(Poll::MAX_NS as u64);

/// The longest rest of a vCPU in a storm.
const STORM_REST: Duration = Duration::from_micros(100);
/// The number of pieces after which a case may end because it takes too long.
const PIECES_LATE: u32 = 2;
/// How often one piece may fail on the baseline, or by the CPU's fault.
const RETRIES: u32 = 3;

/// Who wants to know how far it is.
pub trait Progress {
    /// Cases begin that are measured in turn.
    fn group(&mut self, group: &dyn fmt::Display);
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
    cpu_faults: u32,
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
            cpu_faults: 0,
        })
    }

    /// How guests fared on KVM's own device.
    pub fn baseline(&self) -> Baseline {
        self.baseline
    }

    /// How often a CPU took an interrupt while it had interrupts off, on any device.
    pub fn cpu_faults(&self) -> u32 {
        self.cpu_faults
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
        group: &[Case],
        progress: &mut dyn Progress,
    ) -> Result<Vec<(Case, usize)>, Error> {
        let mut pairs = Vec::new();
        for case in group {
            for device in 0..self.subjects.len() {
                if !case.posts() || self.posting(progress)?[device] {
                    pairs.push((*case, device));
                }
            }
        }
        Ok(pairs)
    }

    /// The number of pieces that [measuring](Self::measure) the cases of a group takes.
    pub fn pieces(
        &mut self,
        group: &[Case],
        events: u32,
        progress: &mut dyn Progress,
    ) -> Result<u32, Error> {
        let pairs = self.pairs(group, progress)?;
        Ok(pairs
            .iter()
            .map(|(case, _)| self.options.rounds(case, self.options.sends(case, events)))
            .sum())
    }

    /// Measures the cases of a group on all devices, with about `events` events on each, where they can be measured.
    pub fn measure(
        &mut self,
        group: &[Case],
        events: u32,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Measured>, Error> {
        let Some(first) = group.first() else {
            return Ok(Vec::new());
        };
        progress.group(&first.group());
        let pairs = self.pairs(group, progress)?;
        let mut measurements = vec![Measurement::default(); pairs.len()];
        // Mechanisms make no difference to this.
        let sends = self.options.sends(first, events);
        let rounds = self.options.rounds(first, sends);

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
            let piece = session.try_piece(index, case, sends, round);
            // What is only late must not come in the next piece.
            if !matches!(&piece, Ok(piece) if piece.lost == 0) {
                session.subjects[index].machines[usize::from(case.posts())] = None;
            }
            piece
        })
    }

    /// Gives a guest something to do, again if it fails on the baseline, or if a CPU has done what no CPU should.
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
                Err(error) if error.is_cpu_fault() => {
                    self.cpu_faults += 1;
                    error
                }
                Err(error) if baseline && error.is_guest_failure() => error,
                result => return result,
            };
            self.baseline.failures += u32::from(baseline);
            failures += 1;
            if failures > RETRIES {
                return Err(error);
            }
            let device = self.subjects[index].device.path().display();
            progress.note(&format!(
                "{device}: {what}: the guest failed, trying again: {error}"
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
                    machine.register_or_fail(JOB_LIMIT)?;
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
        Measurement::collect(machine, case.kind, &counts)
    }
}

/// The job of a piece.
fn job(case: &Case, sends: u32, round: u32, tsc_khz: u32) -> Job {
    let cycles = |time: Duration| time.as_micros() as u64 * u64::from(tsc_khz) / 1000;
    Job {
        kind: case.kind,
        mechanism: case.mechanism,
        pattern: case.pattern,
        idle_mode: case.idle_mode(),
        sends,
        gap: match case.kind {
            JobKind::Storm => cycles(STORM_REST),
            _ if case.idle_mode() == IdleMode::PollingHost => cycles(POLL),
            _ if case.target.halts() => cycles(GAP),
            _ => 0,
        },
        // The same for all devices and mechanisms.
        seed: round.into(),
        patience: cycles(PATIENCE),
        window: 0,
    }
}

#[cfg(test)]
mod tests {
    use mini_guest::Mechanism;

    use super::*;
    use crate::{case::Target, options::tests::plan};

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
