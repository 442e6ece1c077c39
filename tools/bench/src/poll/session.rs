// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Measuring all modes at one point after the other.

use std::{
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use mini_guest::{Job, JobKind, Mode as GuestMode, Pattern, CYCLES_LEN};
use pvirq::device::Device;
use pvirq_protocol::ioctl::Poll;
use vmm::{
    cpus::CpuList,
    error::Error,
    image::Image,
    machine::{Config, Machine},
};

use super::{Arrivals, Measured, Mode, Point, Wakeups};
use crate::{Baseline, Progress};

const MEMORY: usize = 16 << 20;
const VCPUS: usize = 2;
/// How long a wake-up may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);
const JOB_LIMIT: Duration = Duration::from_secs(180);
/// How long a job is to take, if its wake-ups came on time.
const JOB: Duration = Duration::from_millis(250);
/// The least and the largest number of wake-ups of a job: whole bursts, and no more exits than fit into the trace.
const SENDS: std::ops::RangeInclusive<u32> = 20..=300;
const _: () = assert!(300 <= CYCLES_LEN);
/// Every mode is as often first as it is last.
const ROUNDS: u32 = 2;
/// How often a guest may fail on KVM's own device.
const RETRIES: u32 = 3;

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The CPUs to use: the first for the sender, the next one for the vCPU that is idle.
    pub cpus: CpuList,
    /// How long each mode is measured at each point.
    pub time: Duration,
    /// How long each of pvirq's is run before that, so that the budget is what it is in the long run.
    pub warm_up: Duration,
    /// What differs from the defaults of pvirq's module.
    pub poll: PollOptions,
}

/// What is to differ from the defaults of pvirq's module.
#[derive(Clone, Copy, Debug, Default)]
pub struct PollOptions {
    /// The longest window of the guest.
    pub guest_poll_ns: Option<u32>,
    /// The longest window of the host.
    pub host_poll_ns: Option<u32>,
    /// The share of a CPU, in percent.
    pub budget: Option<u32>,
}

/// A machine for one mode, and what its polling is set to.
struct Subject {
    mode: Mode,
    machine: Option<(Machine, Option<Poll>)>,
}

/// A run of all modes.
pub struct Session {
    options: Options,
    image: Image,
    subjects: Vec<Subject>,
    baseline: Baseline,
    cpu_faults: u32,
    seed: u64,
}

impl Session {
    /// Begins with no machine yet.
    pub fn new(options: Options, modes: &[Mode]) -> Self {
        let subjects = modes
            .iter()
            .map(|&mode| Subject {
                mode,
                machine: None,
            })
            .collect();
        Session {
            options,
            image: Image::mini_guest(),
            subjects,
            baseline: Baseline::default(),
            cpu_faults: 0,
            seed: 0,
        }
    }

    /// How guests fared on KVM's own device.
    pub fn baseline(&self) -> Baseline {
        self.baseline
    }

    /// How often a guest was run again because a CPU did what none should.
    pub fn cpu_faults(&self) -> u32 {
        self.cpu_faults
    }

    /// What the polling of a mode's machine is set to, if it is pvirq's and has been measured.
    pub fn poll(&self, mode: Mode) -> Option<Poll> {
        let subject = self.subjects.iter().find(|subject| subject.mode == mode)?;
        subject.machine.as_ref()?.1
    }

    /// The number of pieces that [measuring](Self::measure) a point takes.
    pub fn pieces(&self) -> u32 {
        self.subjects.len() as u32 * ROUNDS
    }

    /// Measures all modes at a point.
    pub fn measure(
        &mut self,
        point: Point,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Measured>, Error> {
        progress.group(&point);
        let mut all = vec![Wakeups::default(); self.subjects.len()];
        for round in 0..ROUNDS {
            let order: Vec<usize> = match round % 2 {
                0 => (0..all.len()).collect(),
                _ => (0..all.len()).rev().collect(),
            };
            // The same intervals for all modes.
            self.seed += 1 << 32;
            for index in order {
                let piece = self.piece(index, point, progress)?;
                if piece.measurement.lost != 0 {
                    progress.note(&piece.measurement.console);
                }
                all[index].add(piece);
                progress.piece();
            }
        }
        let modes = self.subjects.iter().map(|subject| subject.mode);
        Ok(modes
            .zip(all)
            .map(|(mode, wakeups)| Measured {
                point,
                mode,
                wakeups,
            })
            .collect())
    }

    /// Measures a piece, again if the guest fails on KVM's own device.
    fn piece(
        &mut self,
        index: usize,
        point: Point,
        progress: &mut dyn Progress,
    ) -> Result<Wakeups, Error> {
        let mode = self.subjects[index].mode;
        let baseline = !matches!(mode, Mode::Pvirq(_));
        let mut failures = 0;
        loop {
            self.baseline.runs += u32::from(baseline);
            let error = match self.try_piece(index, point) {
                Err(error) => error,
                done => return done,
            };
            // It is of no more use.
            self.subjects[index].machine = None;
            failures += 1;
            let cpu_fault = error.is_cpu_fault();
            self.cpu_faults += u32::from(cpu_fault);
            let again = cpu_fault || (baseline && error.is_guest_failure());
            if !again || failures > RETRIES {
                progress.note(&format!("{}: failed", mode.name()));
                return Err(error);
            }
            self.baseline.failures += u32::from(baseline);
            progress.note(&format!(
                "{}: the guest failed, trying again: {error}",
                mode.name()
            ));
        }
    }

    fn try_piece(&mut self, index: usize, point: Point) -> Result<Wakeups, Error> {
        let mode = self.subjects[index].mode;
        let (mut machine, poll) = match self.subjects[index].machine.take() {
            Some(ready) => ready,
            None => self.boot(mode)?,
        };
        let time = self.options.time / ROUNDS;
        let warm_up = match mode {
            Mode::Pvirq(_) => self.options.warm_up,
            // Their windows find their sizes in a few wake-ups.
            _ => time / 5,
        };
        let mut seed = self.seed;
        let mut run = |time: Duration| {
            let mut sum = Wakeups::default();
            let start = Instant::now();
            while start.elapsed() < time {
                seed += 1;
                sum.add(wake(&mut machine, mode, point, seed)?);
            }
            Ok::<_, Error>(sum)
        };
        run(warm_up)?;
        let wakeups = run(time)?;
        self.subjects[index].machine = Some((machine, poll));
        Ok(wakeups)
    }

    /// Makes a machine for a mode, that waits for jobs.
    fn boot(&self, mode: Mode) -> Result<(Machine, Option<Poll>), Error> {
        let config = Config {
            image: &self.image,
            memory: MEMORY,
            cpus: &self.options.cpus.first_alone(VCPUS),
            mode: GuestMode::Jobs,
            pv_eoi: true,
            count: true,
        };
        let device = Device::open(Path::new(mode.device()))?;
        let mut machine = Machine::new(&device, &config)?;
        machine.run_job(None, JOB_LIMIT)?;
        if let Some(ns) = mode.halt_poll_ns() {
            machine.set_halt_poll(ns)?;
        }
        let Mode::Pvirq(policy) = mode else {
            return Ok((machine, None));
        };
        let defaults = machine.poll()?;
        let PollOptions {
            guest_poll_ns,
            host_poll_ns,
            budget,
        } = self.options.poll;
        let poll = Poll {
            guest_poll_ns: guest_poll_ns.unwrap_or(defaults.guest_poll_ns),
            host_poll_ns: host_poll_ns.unwrap_or(defaults.host_poll_ns),
            budget: budget.unwrap_or(defaults.budget),
            policy: policy.number(),
            ..defaults
        };
        machine.set_poll(&poll)?;
        machine.register_or_fail(JOB_LIMIT)?;
        Ok((machine, Some(poll)))
    }
}

/// Runs a job.
fn wake(machine: &mut Machine, mode: Mode, point: Point, seed: u64) -> Result<Wakeups, Error> {
    let khz = machine.tsc_khz();
    let cycles = |time: Duration| (time.as_secs_f64() * f64::from(khz) * 1000.0) as u64;
    let sends = sends(point.interval);
    let intervals = point.arrivals.intervals(point.interval, seed);
    for (place, interval) in machine
        .shared()?
        .intervals
        .iter()
        .take(sends as usize)
        .zip(intervals)
    {
        place.store(cycles(interval), SeqCst);
    }
    let job = Job {
        kind: JobKind::Wake,
        mechanism: mode.mechanism(),
        pattern: Pattern::Unicast,
        idle_mode: mode.idle_mode(),
        sends,
        gap: 0,
        seed: 0,
        patience: cycles(PATIENCE),
        window: mode.window_ns().unwrap_or(0),
    };
    let counts = machine.run_job(Some(&job), JOB_LIMIT)?;
    Wakeups::collect(machine, &counts)
}

/// The number of wake-ups of a job.
fn sends(interval: Duration) -> u32 {
    let fit = (JOB.as_nanos() / interval.as_nanos().max(1)).min((*SENDS.end()).into()) as u32;
    let bursts = fit / Arrivals::BURST * Arrivals::BURST;
    bursts.clamp(*SENDS.start(), *SENDS.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_whole_bursts_and_not_too_long() {
        for (interval, expected) in [
            (Duration::from_micros(1), 300),
            (Duration::from_micros(1200), 200),
            (Duration::from_millis(1), 250),
            (Duration::from_millis(10), 20),
            (Duration::from_secs(1), 20),
            (Duration::ZERO, 300),
        ] {
            assert_eq!(sends(interval), expected, "{interval:?}");
            assert_eq!(expected % Arrivals::BURST, 0);
        }
    }
}
