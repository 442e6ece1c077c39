// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What an idle vCPU that is woken again and again leaves to a task that would have its CPU to itself.

use std::{
    fmt, hint,
    path::PathBuf,
    sync::{
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
        mpsc::{channel, Sender},
        Arc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mini_guest::JobKind;
use serde::Serialize;
use vmm::{cpus, error::Error, machine::Machine};

use super::{job, Idle, IdleMethod, IdleRow, JOB_LIMIT, TARGET};
use crate::clock::cycles;
use crate::summary::median;

/// How often the vCPU is woken.
const INTERVAL: Duration = Duration::from_millis(1);
/// How long a piece takes.
const PIECE: Duration = Duration::from_millis(500);

/// What was left to the neighbour.
#[derive(Clone, Debug, Serialize)]
pub struct Neighbour {
    bench: &'static str,
    case: &'static str,
    mechanism: &'static str,
    device: PathBuf,
    interval_ns: u64,
    /// Pieces.
    pub pieces: usize,
    /// How often the vCPU was interrupted, per second.
    wakes_per_s: f64,
    /// The vCPU's exits for each interrupt.
    exits_per_wake: f64,
    /// The CPU time that its thread used for each interrupt, in the host and in the guest.
    cpu_us_per_wake: f64,
    /// Idle periods that ended while the vCPU, or its host, polled.
    polled: u64,
    /// What the neighbour did, in units of its own: the median of the pieces.
    loops_per_s: f64,
    /// The median of the ratios of the pairs, to the first row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative: Option<f64>,
}

impl Neighbour {
    /// What it has lost, compared with plain HLT: 0.02 for 2 %.
    pub fn loss(&self) -> Option<f64> {
        self.relative.map(|ratio| 1.0 - ratio)
    }
}

/// A task that computes.
pub(super) struct Task {
    shared: Arc<(AtomicU64, AtomicBool)>,
    begin: Sender<()>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Task {
    /// Makes it on a CPU, where it waits.
    pub(super) fn new(cpu: usize) -> Result<Self, Error> {
        let (begin, begun) = channel();
        let (ready, is_ready) = channel();
        let shared = Arc::new((AtomicU64::new(0), AtomicBool::new(false)));
        let its = shared.clone();
        let compute = move || {
            cpus::pin(cpu)?;
            // Whoever waits for it sees if it is gone.
            let _ = ready.send(());
            if begun.recv().is_err() {
                return Ok(());
            }
            let mut work = 0_u64;
            while !its.1.load(Relaxed) {
                for _ in 0..1000 {
                    work = hint::black_box(work.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
                }
                its.0.fetch_add(1, Relaxed);
            }
            Ok(())
        };
        let thread = thread::Builder::new()
            .name("neighbour".into())
            .spawn(compute)
            .map_err(Error::os("cannot start a thread"))?;
        let task = Task {
            shared,
            begin,
            thread: Some(thread),
        };
        is_ready.recv().map_err(|_| gone())?;
        Ok(task)
    }

    /// Has it compute from now on.
    pub(super) fn begin(&self) -> Result<(), Error> {
        self.begin.send(()).map_err(|_| gone())
    }

    /// How often it has been round its loop.
    pub(super) fn loops(&self) -> u64 {
        self.shared.0.load(Relaxed)
    }

    /// Waits until it has computed something.
    fn await_first(&self) -> Result<(), Error> {
        while self.loops() == 0 {
            if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                return Err(gone());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.shared.1.store(true, Relaxed);
        // It may still wait.
        let _ = self.begin.send(());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn gone() -> Error {
    Error::Os(
        "the neighbour has ended".into(),
        std::io::ErrorKind::BrokenPipe.into(),
    )
}

struct Subject {
    method: IdleMethod,
    machine: Machine,
    wakes: u64,
    exits: u64,
    cpu: Duration,
    polled: u64,
    seconds: f64,
    loops_per_s: Vec<f64>,
}

impl Idle {
    /// Measures the neighbour's throughput, in pairs of pieces.
    pub(super) fn neighbour(
        &self,
        pairs: u32,
        note: &mut dyn FnMut(&str),
    ) -> Result<Vec<IdleRow>, Error> {
        let mut subjects = Vec::new();
        for method in [IdleMethod::Hlt(0), IdleMethod::Idle(None)] {
            subjects.push(Subject {
                method,
                machine: self.boot(method, true)?,
                wakes: 0,
                exits: 0,
                cpu: Duration::ZERO,
                polled: 0,
                seconds: 0.0,
                loops_per_s: Vec::new(),
            });
        }
        let neighbour = Task::new(self.cpus()[TARGET])?;
        neighbour.begin()?;
        neighbour.await_first()?;
        for pair in 0..pairs {
            if pair % 2 != 0 {
                subjects.reverse();
            }
            for subject in &mut subjects {
                let mut failures = 0;
                while let Err(error) = subject.measure(&neighbour) {
                    failures += 1;
                    self.forgive(subject.method, failures, error, note)?;
                    subject.machine = self.boot(subject.method, true)?;
                }
            }
            if pair % 2 != 0 {
                subjects.reverse();
            }
        }
        drop(neighbour);
        note(&format!("neighbour: {pairs} pairs"));
        let pieces = subjects[1].loops_per_s.iter().zip(&subjects[0].loops_per_s);
        let ratio = median(&mut pieces.map(|(of, to)| of / to).collect::<Vec<_>>());
        let rows = subjects.iter_mut().enumerate().map(|(index, subject)| {
            let pieces = subject.loops_per_s.len();
            let per_wake = |sum: f64| sum / subject.wakes.max(1) as f64;
            IdleRow::Neighbour(Neighbour {
                bench: "idle",
                case: "neighbour",
                mechanism: subject.method.name(),
                device: self.path(subject.method),
                interval_ns: INTERVAL.as_nanos() as u64,
                pieces,
                wakes_per_s: subject.wakes as f64 / subject.seconds,
                exits_per_wake: per_wake(subject.exits as f64),
                cpu_us_per_wake: per_wake(subject.cpu.as_secs_f64() * 1e6),
                polled: subject.polled,
                loops_per_s: median(&mut subject.loops_per_s).unwrap_or(f64::NAN),
                relative: ratio.filter(|_| index != 0),
            })
        });
        Ok(rows.collect())
    }
}

impl Subject {
    fn measure(&mut self, neighbour: &Task) -> Result<(), Error> {
        let khz = self.machine.tsc_khz();
        let sends = (PIECE.as_nanos() / INTERVAL.as_nanos()) as u32;
        let job = job(
            self.method,
            JobKind::Tick,
            sends,
            cycles(INTERVAL, khz),
            0,
            khz,
        );

        let (start, before) = (Instant::now(), neighbour.loops());
        let counts = self.machine.run_job(Some(&job), JOB_LIMIT)?;
        let (passed, loops) = (start.elapsed().as_secs_f64(), neighbour.loops() - before);
        self.loops_per_s.push(loops as f64 / passed);
        self.seconds += passed;

        self.exits += counts[TARGET].trace.total();
        self.cpu += counts[TARGET].usage.cpu;
        let slot = &self.machine.shared()?.slots[TARGET];
        self.wakes += slot.interrupts.load(SeqCst);
        self.polled += slot.idle.in_guest.load(SeqCst) + slot.idle.in_host.load(SeqCst);
        Ok(())
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "neighbour of {} on {}: {:.0} loops/s, {:.0} wake-ups/s with {:.2} exits and {:.0} µs of CPU each, {} ended while \
             polling",
            self.mechanism,
            self.device.display(),
            self.loops_per_s,
            self.wakes_per_s,
            self.exits_per_wake,
            self.cpu_us_per_wake,
            self.polled
        )?;
        match self.relative {
            Some(ratio) => write!(f, "; ratio: {ratio:.4}, median of {} pairs", self.pieces),
            None => Ok(()),
        }
    }
}
