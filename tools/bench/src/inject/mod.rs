// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What an interrupt from a device costs: one that a thread of the VMM signals by an eventfd.
//!
//! A sender waits until the target rests, signals one eventfd or a burst of them, and waits until the target has
//! acknowledged the last signal by its sequence number. Each mechanism has a machine of its own, and they are measured in
//! turn, a piece each, in an order that reverses every time. An event is one signal.

mod case;
mod ready;
mod report;
mod sender;
mod submission;

use std::{cell::Cell, sync::atomic::Ordering::SeqCst};

use exit_count::exits::{Exits, Reason};
use mini_guest::{Job, JobKind, Mechanism as Sender, Pattern};
use nix::sys::resource::{setrlimit, Resource};
use pvirq::device::{KVM, PVIRQ};
use vmm::{cpus::CpuList, error::Error, image::Image};

pub use self::{
    case::{inject_plan, InjectCase, Injection, Signals},
    report::{InjectReport, InjectRow},
};
use self::{
    ready::{Ready, JOB_LIMIT},
    sender::Signal,
};
use super::{case::Target, environment::Environment, results::SCHEMA, summary::Summary};

/// The largest number of signals in a row by one mechanism: all exits must fit into the trace.
const PIECE: u32 = 256;
/// The fewest pieces of a case, however large its bursts are.
const MIN_PIECES: u32 = 10;
/// The number of files that there may be open.
const MAX_FILES: u64 = 1 << 16;
/// How often a piece may fail on the baseline.
const RETRIES: u32 = 3;

/// What a piece has left.
#[derive(Default)]
struct Piece {
    events: u64,
    lost: u64,
    handled: u64,
    system_calls: u64,
    kicks: u64,
    exits: Exits,
    cycles: Vec<u64>,
}

/// Measures how interrupts get from a VMM to its guest.
pub struct InjectSession {
    cpus: CpuList,
    environment: Environment,
    image: Image,
    /// How often a guest was given something to do on KVM's own device, and how often it failed.
    runs: Cell<u32>,
    failures: Cell<u32>,
    /// How often a CPU took an interrupt while it had interrupts off.
    cpu_faults: Cell<u32>,
}

impl InjectSession {
    /// Begins a run on these CPUs: the sender has the first.
    pub fn new(cpus: CpuList) -> Result<Self, Error> {
        // Two for each signal of the largest burst, and for each of two targets.
        setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, MAX_FILES)
            .map_err(|error| Error::os("cannot have enough files open")(error.into()))?;
        let devices = vec![KVM.into(), PVIRQ.into()];
        Ok(InjectSession {
            environment: Environment::of_host(cpus.len(), vec![2, 3], devices)?,
            cpus,
            image: Image::mini_guest(),
            runs: Cell::new(0),
            failures: Cell::new(0),
            cpu_faults: Cell::new(0),
        })
    }

    fn place(&self, case: &InjectCase) -> Vec<usize> {
        match case.target {
            Target::Preempted => self.cpus.rest_together(case.vcpus()),
            _ => self.cpus.first_alone(case.vcpus()),
        }
    }

    /// Lets the target take `bursts` bursts.
    fn piece(&self, case: &InjectCase, ready: &mut Ready, bursts: u32) -> Result<Piece, Error> {
        let job = Job {
            kind: JobKind::Inject,
            mechanism: Sender::X2Apic,
            pattern: Pattern::Unicast,
            idle_mode: case.idle_mode(),
            // What each target has to wait for.
            sends: bursts / case.targets() * case.burst,
            gap: 0,
            seed: 0,
            patience: 0,
            window: 0,
        };
        let before = ready.delivered()?;
        let signal = Signal {
            case,
            injection: ready.injection,
            descriptors: ready.descriptors.as_ref(),
            sources: &ready.sources,
            cpu: self.cpus.first_alone(2)[0],
        };
        let (counts, sent) = ready
            .machine
            .run_job_with(&job, JOB_LIMIT, |shared| signal.send(shared, bursts))?;
        let mut piece = sent?;
        piece.kicks = ready.delivered()? - before;
        let shared = ready.machine.shared()?;
        for (vcpu, counts) in counts.iter().enumerate().skip(1) {
            let mut exits = counts.trace;
            counts
                .statistics
                .agree_with(&exits)
                .map_err(|disagreement| Error::Count(format!("vCPU {vcpu}: {disagreement}")))?;
            // The port that says that the job is done.
            if !exits.forget(Reason::Io) {
                return Err(Error::Count(format!(
                    "vCPU {vcpu} has parked without an exit"
                )));
            }
            piece.exits += exits;
            piece.handled += shared.slots[vcpu].interrupts.load(SeqCst);
        }
        Ok(piece)
    }

    /// Measures a case by some mechanisms, with about `events` signals each.
    pub fn measure(
        &self,
        case: &InjectCase,
        injections: &[Injection],
        events: u32,
        mut note: impl FnMut(&str),
    ) -> Result<Vec<InjectRow>, Error> {
        let bursts = (PIECE / case.burst)
            .clamp(1, 50)
            .next_multiple_of(case.targets());
        let pieces = events.div_ceil(bursts * case.burst).max(MIN_PIECES);
        let mut machines: Vec<Option<Ready>> = injections.iter().map(|_| None).collect();
        let mut sums: Vec<Piece> = injections.iter().map(|_| Piece::default()).collect();

        for round in 0..pieces {
            let mut order: Vec<usize> = (0..injections.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let injection = injections[index];
                let mut failures = 0;
                let piece = loop {
                    let attempt = self.attempt(case, injection, &mut machines[index], bursts);
                    let on_baseline = u32::from(injection.device() == KVM);
                    self.runs.set(self.runs.get() + on_baseline);
                    match attempt {
                        Err(error)
                            if (error.is_cpu_fault()
                                || on_baseline != 0 && error.is_guest_failure())
                                && failures < RETRIES =>
                        {
                            failures += 1;
                            self.failures.set(self.failures.get() + on_baseline);
                            let cpu_fault = u32::from(error.is_cpu_fault());
                            self.cpu_faults.set(self.cpu_faults.get() + cpu_fault);
                            machines[index] = None;
                            let device = injection.device();
                            note(&format!(
                                "{device}: the guest failed, trying again: {error}"
                            ));
                        }
                        piece => break piece?,
                    }
                };
                sums[index].add(piece);
            }
        }
        let mut rows: Vec<_> = injections
            .iter()
            .zip(sums)
            .map(|(injection, sum)| self.row(case, *injection, sum))
            .collect();
        let p50 = |row: &InjectRow| row.cycles_per_burst.map(|summary| summary.p50 as f64);
        let reference = rows
            .iter()
            .find(|row| row.mechanism == "irqfd")
            .and_then(p50);
        for row in &mut rows {
            row.cycles_ratio = p50(row).zip(reference).map(|(own, other)| own / other);
        }
        Ok(rows)
    }

    fn attempt(
        &self,
        case: &InjectCase,
        injection: Injection,
        machine: &mut Option<Ready>,
        bursts: u32,
    ) -> Result<Piece, Error> {
        let ready = match machine {
            Some(ready) => ready,
            None => {
                let mut ready = Ready::boot(&self.image, &self.place(case), case, injection)?;
                // What happens once only is not part of the measurement.
                self.piece(case, &mut ready, 2)?;
                machine.insert(ready)
            }
        };
        self.piece(case, ready, bursts)
    }

    fn row(&self, case: &InjectCase, injection: Injection, mut sum: Piece) -> InjectRow {
        let place = self.place(case);
        let cycles_per_burst = Summary::of(&mut sum.cycles);
        let per_event = |count: u64| count as f64 / sum.events as f64;
        InjectRow {
            bench: "inject",
            case: case.name(),
            target: case.target.name(),
            mechanism: injection.name(),
            device: injection.device().into(),
            vcpus: case.vcpus(),
            overcommit: place
                .iter()
                .map(|cpu| place.iter().filter(|&other| other == cpu).count())
                .max()
                .unwrap_or(0),
            events: sum.events,
            delivered: sum.events - sum.lost,
            lost: sum.lost,
            handled: sum.handled,
            system_calls_per_event: per_event(sum.system_calls),
            kicks_per_event: per_event(sum.kicks),
            exits_per_event: per_event(sum.exits.without_timer()),
            exits_by_reason: Reason::ALL
                .map(|reason| (reason.name(), per_event(sum.exits[reason])))
                .into(),
            timer_exits_per_event: per_event(sum.exits.timer),
            instructions_per_burst: cycles_per_burst
                .map(|cycles| cycles.p50)
                .filter(|_| self.environment.ground.counts_instructions()),
            cycles_per_burst,
            cycles_ratio: None,
        }
    }

    /// Where it measures.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Puts rows into a report.
    pub fn report(&self, rows: Vec<InjectRow>) -> InjectReport {
        InjectReport {
            schema: SCHEMA,
            environment: Environment {
                baseline_runs: self.runs.get(),
                baseline_failures: self.failures.get(),
                cpu_faults: self.cpu_faults.get(),
                ..self.environment.clone()
            },
            rows,
        }
    }
}

impl Piece {
    fn add(&mut self, other: Piece) {
        self.events += other.events;
        self.lost += other.lost;
        self.handled += other.handled;
        self.system_calls += other.system_calls;
        self.kicks += other.kicks;
        self.exits += other.exits;
        self.cycles.extend(other.cycles);
    }
}
