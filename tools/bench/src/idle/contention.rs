// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How soon polling gives way to a task that wants the CPU.

use std::{
    fmt, fs, io,
    path::Path,
    sync::atomic::Ordering::SeqCst,
    thread,
    time::{Duration, Instant},
};

use exit_count::usage;
use mini_guest::{JobKind, Shared};
use pvirq_protocol::{ioctl::Poll, Descriptor};
use serde_json::{json, Value};
use vm_memory::GuestMemoryMmap;
use vmm::{boot, cpus, error::Error, machine::Machine};

use super::{
    method::{IdleMethod, Options, TARGET},
    task::Task,
};
use crate::{
    bench::{After, Bench, Measured, Piece},
    ground::Ground,
    session::{Session, JOB_LIMIT},
    summary::median,
    table::Column,
};

/// How long a vCPU is woken while it has its CPU for itself, and how long it then shares the CPU.
const BEFORE: Duration = Duration::from_millis(150);
const AFTER: Duration = Duration::from_millis(150);
/// How often its polling is sampled.
const SAMPLE: Duration = Duration::from_micros(200);
/// How often the vCPU may be found not polling before the task begins.
const ATTEMPTS: u32 = 20;
/// Windows as long as can be.
const LONGEST: Poll = Poll {
    guest_poll_ns: Poll::MAX_NS,
    ..Poll::fixed(Poll::MAX_NS)
};

/// Measures how soon polling gives way.
pub struct Contention(pub Options);

/// Where wake-ups come.
#[derive(Clone, Copy)]
pub struct Window {
    name: &'static str,
    poll: Option<Poll>,
    interval: Duration,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "contention ({})", self.name)
    }
}

/// When what ended, after the task had started.
#[derive(Clone, Copy, Default)]
struct Round {
    windows_zero: Option<Duration>,
    host_polled: Duration,
    guest_polled: Duration,
}

/// What pieces add up to.
#[derive(Default)]
pub struct Sum {
    rounds: Vec<Round>,
    /// How often the vCPU did not poll.
    without: u32,
}

impl Bench for Contention {
    type Case = Window;
    type Subject = IdleMethod;
    type Machine = Machine;
    type Sum = Sum;

    fn cases(&self) -> Vec<Window> {
        let window = |name, poll, us| Window {
            name,
            poll,
            interval: Duration::from_micros(us),
        };
        vec![
            window("guest", None, 20),
            window("host", None, 150),
            window("longest", Some(LONGEST), 500),
        ]
    }

    fn subjects(&self, window: &Window) -> Vec<IdleMethod> {
        vec![IdleMethod::Idle(window.poll)]
    }

    fn device<'a>(&'a self, method: &'a IdleMethod) -> &'a Path {
        self.0.device(method)
    }

    fn rounds(&self, _: &Window) -> u32 {
        self.0.pairs
    }

    fn boot(&self, session: &Session, _: &Window, method: &IdleMethod) -> Result<Machine, Error> {
        self.0.boot(session, method, false)
    }

    fn run_piece(&self, piece: Piece<'_, Self>) -> Result<After, Error> {
        let cpus = piece.session.cpus.first_alone(2);
        loop {
            match compete(piece.machine, *piece.subject, piece.case.interval, &cpus)? {
                Some(round) => {
                    piece.sum.rounds.push(round);
                    return Ok(After::Keep);
                }
                None if piece.sum.without < ATTEMPTS => piece.sum.without += 1,
                None => {
                    return Err(Error::Os(
                        format!("the vCPU does not poll ({})", piece.case.name),
                        io::ErrorKind::TimedOut.into(),
                    ))
                }
            }
        }
    }

    fn rows(&self, _: &Session, window: &Window, all: &mut [Measured<Self>]) -> Vec<Value> {
        let row = |one: &mut Measured<Self>| {
            let rounds = &one.sum.rounds;
            json!({
                "bench": "idle",
                "case": "contention",
                "mechanism": one.subject.name(),
                "device": self.device(&one.subject),
                "window": window.name,
                "interval_ns": window.interval.as_nanos() as u64,
                "rounds": rounds.len(),
                "windows_zero_ms": spread(rounds, |round| round.windows_zero.unwrap_or(AFTER)),
                "host_polled_ms": spread(rounds, |round| round.host_polled),
                "guest_polled_ms": spread(rounds, |round| round.guest_polled),
            })
        };
        all.iter_mut().map(row).collect()
    }

    fn columns(&self, _: &Ground) -> Vec<Column> {
        vec![
            Column::text("woken in\nwindow of", "window"),
            Column::number("every ns", "/interval_ns", 0),
            Column::number("rounds", "/rounds", 0),
            Column::number("windows 0\nms (median)", "/windows_zero_ms/p50", 1),
            Column::number("\n(worst)", "/windows_zero_ms/max", 1),
            Column::number("host polls no more\nms (median)", "/host_polled_ms/p50", 1),
            Column::number("\n(worst)", "/host_polled_ms/max", 1),
            Column::number(
                "guest polls no more\nms (median)",
                "/guest_polled_ms/p50",
                1,
            ),
            Column::number("\n(worst)", "/guest_polled_ms/max", 1),
        ]
    }
}

/// The median and the largest of some times, in ms.
fn spread(rounds: &[Round], of: impl Fn(&Round) -> Duration) -> Value {
    let ms = |round| of(round).as_secs_f64() * 1000.0;
    let mut ms: Vec<f64> = rounds.iter().map(ms).collect();
    // Sorts them.
    let p50 = median(&mut ms);
    json!({"p50": p50, "max": ms.last()})
}

/// Wakes a vCPU again and again, and has a task compete for its CPU. Returns nothing if the vCPU has not polled before.
fn compete(
    machine: &mut Machine,
    method: IdleMethod,
    interval: Duration,
    cpus: &[usize],
) -> Result<Option<Round>, Error> {
    let sends = (BEFORE + AFTER).as_nanos() / interval.as_nanos();
    let job = method.job(JobKind::Tick, sends as u32, interval, 0, machine.tsc_khz());
    let (memory, fdinfo) = (machine.memory(), machine.fdinfo(TARGET));
    // The job clears what the last one left.
    machine.shared()?.set_job(&job);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            cpus::pin(cpus[0])?;
            watch(&memory, &fdinfo, cpus[TARGET])
        });
        machine.run_job(Some(&job), JOB_LIMIT)?;
        watcher.join().unwrap_or_else(|_| {
            Err(Error::Os(
                "the watcher has panicked".into(),
                io::ErrorKind::Other.into(),
            ))
        })
    })
}

/// The state of a vCPU's polling.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    windows: bool,
    host_ns: u64,
    guest: u64,
}

impl Seen {
    fn of(shared: &Shared, fdinfo: &Path) -> Result<Self, Error> {
        let descriptor: &Descriptor = &shared.descriptors[TARGET];
        let text = fs::read_to_string(fdinfo).map_err(Error::os("cannot read a vCPU's fdinfo"))?;
        let host_ns = usage::counter(&text, "pvirq-polled-ns");
        Ok(Seen {
            windows: descriptor.guest_poll_ns() != 0 || descriptor.host_poll_ns() != 0,
            host_ns: host_ns.ok_or_else(|| {
                Error::Os(
                    "a vCPU's fdinfo has no pvirq-polled-ns".into(),
                    io::ErrorKind::InvalidData.into(),
                )
            })?,
            guest: shared.slots[TARGET].idle.polls.load(SeqCst),
        })
    }
}

/// Has a task compete for the vCPU's CPU, and watches the polling.
fn watch(memory: &GuestMemoryMmap, fdinfo: &Path, cpu: usize) -> Result<Option<Round>, Error> {
    let shared = boot::shared(memory)?;
    let task = Task::new(cpu)?;
    // It samples often, and each time for a short while.
    cpus::prefer_this_thread();
    let begun = Instant::now();
    let mut first = Seen::of(shared, fdinfo)?;
    thread::sleep(BEFORE / 2);
    // Until it polls.
    let mut last = loop {
        let seen = Seen::of(shared, fdinfo)?;
        let polls = seen.windows && (seen.host_ns, seen.guest) != (first.host_ns, first.guest);
        if polls {
            break seen;
        }
        if begun.elapsed() > BEFORE {
            return Ok(None);
        }
        first = seen;
        thread::sleep(SAMPLE);
    };
    let start = Instant::now();
    task.begin()?;
    let mut round = Round::default();
    while start.elapsed() < AFTER / 2 {
        thread::sleep(SAMPLE);
        let seen = Seen::of(shared, fdinfo)?;
        let at = start.elapsed();
        if seen.host_ns != last.host_ns {
            round.host_polled = at;
        }
        if seen.guest != last.guest {
            round.guest_polled = at;
        }
        match seen.windows {
            true => round.windows_zero = None,
            false => _ = round.windows_zero.get_or_insert(at),
        }
        last = seen;
    }
    drop(task);
    Ok(Some(round))
}
