// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How soon polling gives way to a task that wants the CPU.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::atomic::Ordering::SeqCst,
    thread,
    time::{Duration, Instant},
};

use mini_guest::{JobKind, Shared};
use pvirq_protocol::{ioctl::Poll, Descriptor};
use serde::Serialize;
use vm_memory::GuestMemoryMmap;
use vmm::{boot, cpus, error::Error, machine::Machine};

use super::{job, neighbour::Task, Idle, IdleMethod, IdleRow, JOB_LIMIT, TARGET};
use crate::clock::cycles;

/// How long a vCPU is woken undisturbed, and how long it then shares its CPU.
const BEFORE: Duration = Duration::from_millis(150);
const AFTER: Duration = Duration::from_millis(150);
/// How often it is looked at.
const SAMPLE: Duration = Duration::from_micros(200);
/// How often the vCPU may not poll when it is to be disturbed at it, in a row.
const ATTEMPTS: u32 = 20;

/// How polling gave way.
#[derive(Clone, Debug, Serialize)]
pub struct Contention {
    bench: &'static str,
    case: &'static str,
    mechanism: &'static str,
    device: PathBuf,
    /// Where the wake-ups come.
    window: &'static str,
    interval_ns: u64,
    /// How often there was a task that wanted the CPU.
    pub rounds: usize,
    /// From then until both windows were 0.
    pub windows_zero_ms: Spread,
    /// From then until the host had polled for the last time.
    pub host_polled_ms: Spread,
    /// From then until the guest had begun to poll for the last time.
    pub guest_polled_ms: Spread,
}

/// The median, and the worst.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// The median.
    pub p50: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    fn of(times: impl Iterator<Item = Duration>) -> Self {
        let mut ms: Vec<f64> = times.map(|time| time.as_secs_f64() * 1000.0).collect();
        let p50 = crate::summary::median(&mut ms).unwrap_or(f64::NAN);
        let max = ms.last().copied().unwrap_or(f64::NAN);
        Spread { p50, max }
    }
}

/// When what ended, after the task had started.
#[derive(Clone, Copy, Default)]
struct Round {
    windows_zero: Option<Duration>,
    host_polled: Duration,
    guest_polled: Duration,
}

impl Idle {
    /// Measures how soon polling gives way, so many times each for wake-ups that come in the guest's window, in the host's,
    /// and with windows that are as long as can be.
    pub(super) fn contention(
        &self,
        rounds: u32,
        note: &mut dyn FnMut(&str),
    ) -> Result<Vec<IdleRow>, Error> {
        let longest = Poll {
            guest_poll_ns: Poll::MAX_NS,
            ..Poll::fixed(Poll::MAX_NS)
        };
        let groups = [
            ("guest", None, Duration::from_micros(20)),
            ("host", None, Duration::from_micros(150)),
            ("longest", Some(longest), Duration::from_micros(500)),
        ];
        let mut rows = Vec::new();
        for (window, poll, interval) in groups {
            let method = IdleMethod::Idle(poll);
            let mut machine = self.boot(method, false)?;
            let mut all = Vec::new();
            let (mut idle, mut failures) = (0, 0);
            while all.len() < rounds as usize {
                let round = match self.round(&mut machine, method, interval) {
                    Ok(round) => round,
                    Err(error) => {
                        failures += 1;
                        self.forgive(method, failures, error, note)?;
                        machine = self.boot(method, false)?;
                        continue;
                    }
                };
                match round {
                    Some(round) => all.push(round),
                    None if idle < ATTEMPTS => idle += 1,
                    None => {
                        return Err(Error::Os(
                            format!("the vCPU does not poll ({window})"),
                            io::ErrorKind::TimedOut.into(),
                        ))
                    }
                }
            }
            note(&format!(
                "contention ({window}): {} rounds, {idle} without polling",
                all.len()
            ));
            rows.push(IdleRow::Contention(Contention {
                bench: "idle",
                case: "contention",
                mechanism: method.name(),
                device: self.path(method),
                window,
                interval_ns: interval.as_nanos() as u64,
                rounds: all.len(),
                windows_zero_ms: Spread::of(
                    all.iter().map(|round| round.windows_zero.unwrap_or(AFTER)),
                ),
                host_polled_ms: Spread::of(all.iter().map(|round| round.host_polled)),
                guest_polled_ms: Spread::of(all.iter().map(|round| round.guest_polled)),
            }));
        }
        Ok(rows)
    }

    /// Wakes a vCPU again and again, and has a task disturb it; nothing if it has not polled before.
    fn round(
        &self,
        machine: &mut Machine,
        method: IdleMethod,
        interval: Duration,
    ) -> Result<Option<Round>, Error> {
        let khz = machine.tsc_khz();
        let sends = (BEFORE + AFTER).as_nanos() / interval.as_nanos();
        let job = job(
            method,
            JobKind::Tick,
            sends as u32,
            cycles(interval, khz),
            0,
            khz,
        );
        let (memory, fdinfo, cpus) = (machine.memory(), machine.fdinfo(TARGET), self.cpus());
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
}

/// What can be seen of a vCPU's polling.
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
        let host_ns = text
            .lines()
            .find_map(|line| line.strip_prefix("pvirq-polled-ns:")?.trim().parse().ok());
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

/// Has a task disturb the vCPU, and watches its polling.
fn watch(memory: &GuestMemoryMmap, fdinfo: &Path, cpu: usize) -> Result<Option<Round>, Error> {
    let shared = boot::shared(memory)?;
    let task = Task::new(cpu)?;
    // It looks often, and not long.
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

impl fmt::Display for Contention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "contention ({} window, woken every {} µs), {} rounds, ms until (median, worst)",
            self.window,
            self.interval_ns / 1000,
            self.rounds
        )?;
        for (what, spread) in [
            ("both windows are 0", self.windows_zero_ms),
            ("the host polls no more", self.host_polled_ms),
            ("the guest polls no more", self.guest_polled_ms),
        ] {
            write!(f, "\n  {what:25} {:6.1} {:6.1}", spread.p50, spread.max)?;
        }
        Ok(())
    }
}
