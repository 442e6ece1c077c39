// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Measuring all modes at one point after the other.

use std::{
    fmt,
    ops::RangeInclusive,
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use mini_guest::{Job, JobKind, CYCLES_LEN};
use pvirq_protocol::ioctl::Poll;
use serde_json::{json, Value};
use vmm::{error::Error, machine::Machine};

use super::{distribution::Distribution, mode::Mode, wakeups::Wakeups};
use crate::{
    bench::{After, Bench, Measured, Piece, Verdict},
    clock::cycles_exactly,
    ground::Ground,
    row::{number, own_exits, per_event, posts, set, set_exits, text},
    session::{Session, JOB_LIMIT, PATIENCE},
    summary::Summary,
    table::{decimal, Column},
};

const VCPUS: usize = 2;
/// How long a job takes if its wake-ups come on time.
const JOB: Duration = Duration::from_millis(250);
/// The least and the largest number of wake-ups of a job: whole bursts, and no more exits than fit into the trace.
const SENDS: RangeInclusive<u32> = 20..=300;
const _: () = assert!(300 <= CYCLES_LEN);
/// Every mode is as often first as it is last.
const ROUNDS: u32 = 2;
/// What two modes have to differ by to count as different: exits for each wake-up.
const EXITS_APART: f64 = 0.05;
/// The same: the share of a CPU.
const CPU_APART: f64 = 0.02;

/// Where to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// How intervals between wake-ups are distributed.
    pub distribution: Distribution,
    /// Their mean.
    pub interval: Duration,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "poll {}, every {:?}",
            self.distribution.name(),
            self.interval
        )
    }
}

/// What to measure, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The modes.
    pub modes: Vec<Mode>,
    /// Where each of them is measured.
    pub points: Vec<Point>,
    /// How long each mode is measured at each point.
    pub time: Duration,
    /// How long each of pvirq's is run before that, so that the budget is what it is in the long run.
    pub warm_up: Duration,
    /// The longest window of the guest, if not the module's.
    pub guest_poll_ns: Option<u32>,
    /// The longest window of the host, if not the module's.
    pub host_poll_ns: Option<u32>,
    /// The share of a CPU, in percent, if not the module's.
    pub budget: Option<u32>,
    /// Whether the benchmark fails if a reference is better than pvirq's default policy.
    pub check: bool,
}

/// Measures wake-ups.
pub struct Polling(pub Options);

impl Bench for Polling {
    type Case = Point;
    type Subject = Mode;
    type Machine = (Machine, Option<Poll>);
    type Sum = Wakeups;

    const KEEPS_MACHINES: bool = true;

    fn cases(&self) -> Vec<Point> {
        self.0.points.clone()
    }

    fn subjects(&self, _: &Point) -> Vec<Mode> {
        self.0.modes.clone()
    }

    fn device<'a>(&'a self, mode: &'a Mode) -> &'a Path {
        Path::new(mode.device())
    }

    fn rounds(&self, _: &Point) -> u32 {
        ROUNDS
    }

    fn boot(
        &self,
        session: &Session,
        _: &Point,
        &mode: &Mode,
    ) -> Result<(Machine, Option<Poll>), Error> {
        let cpus = session.cpus.first_alone(VCPUS);
        let mut machine = session.boot(Path::new(mode.device()), &session.config(&cpus))?;
        if let Some(ns) = mode.halt_poll_ns() {
            machine.set_halt_poll(ns)?;
        }
        let Mode::Pvirq(policy) = mode else {
            return Ok((machine, None));
        };
        let defaults = machine.poll()?;
        let poll = Poll {
            guest_poll_ns: self.0.guest_poll_ns.unwrap_or(defaults.guest_poll_ns),
            host_poll_ns: self.0.host_poll_ns.unwrap_or(defaults.host_poll_ns),
            budget: self.0.budget.unwrap_or(defaults.budget),
            policy: policy.number(),
            ..defaults
        };
        machine.set_poll(&poll)?;
        machine.register_or_fail(JOB_LIMIT)?;
        Ok((machine, Some(poll)))
    }

    fn run_piece(&self, piece: Piece<'_, Self>) -> Result<After, Error> {
        let mode = *piece.subject;
        let (machine, poll) = piece.machine;
        let time = self.0.time / ROUNDS;
        let warm_up = match mode {
            Mode::Pvirq(_) => self.0.warm_up,
            // Their windows find their sizes in a few wake-ups.
            _ => time / 5,
        };
        // The same intervals for all modes.
        let mut seed = (piece.number as u64 * u64::from(ROUNDS) + u64::from(piece.round) + 1) << 32;
        let mut run = |time: Duration| {
            let mut sum = Wakeups::default();
            let start = Instant::now();
            while start.elapsed() < time {
                seed += 1;
                sum.add(wake(machine, mode, *poll, piece.case, seed)?);
            }
            Ok::<_, Error>(sum)
        };
        run(warm_up)?;
        let wakeups = run(time)?;
        if wakeups.measurement.lost != 0 {
            (piece.note)(&wakeups.measurement.console);
        }
        piece.sum.add(wakeups);
        Ok(After::Keep)
    }

    fn rows(&self, _: &Session, point: &Point, all: &mut [Measured<Self>]) -> Vec<Value> {
        let mut rows: Vec<Value> = all.iter().map(|one| row(point, one)).collect();
        let halt = rows.iter().find(|row| row["mode"] == Mode::Halt.name());
        if let Some(halt) = halt.map(exits) {
            for row in &mut rows {
                row["saved_per_event"] = json!(halt - exits(row));
            }
        }
        rows
    }

    fn columns(&self, _: &Ground) -> Vec<Column> {
        let pair = |row: &Value, name: &str, decimals| {
            let share = |place: &str| number(row, &format!("/{name}/{place}")) * 100.0;
            ["guest", "host"]
                .map(|place| decimal(share(place), decimals))
                .join(" + ")
        };
        vec![
            Column::text("wake-ups", "case"),
            Column::new("every µs\n(achieved)", |row| {
                let interval = |name: &str| micros(number(row, name));
                format!(
                    "{} ({})",
                    interval("/interval_ns"),
                    interval("/achieved_interval_ns")
                )
            }),
            Column::text("mode", "mode"),
            Column::exits("wake-up"),
            Column::new("woken in\nguest/host/halt, %", |row| {
                let share = |place: &str| {
                    decimal(
                        number(row, &format!("/periods_per_event/{place}")) * 100.0,
                        0,
                    )
                };
                ["guest", "host", "halt"].map(share).join(" / ")
            }),
            Column::new("latency, µs\np50   p99", |row| {
                let latency = |name: &str| micros(number(row, name));
                format!(
                    "{} {:>6}",
                    latency("/latency_ns/p50"),
                    latency("/latency_ns/p99")
                )
            }),
            Column::new("CPU, %\nguest + host", move |row| {
                pair(row, "cpu_per_second", 0)
            }),
            Column::new("polled, %\nguest + host", move |row| {
                pair(row, "polled_per_second", 1)
            }),
        ]
    }

    /// Finds where a reference is better than pvirq's default policy in both respects, exits and CPU time.
    fn judge(&self, rows: &[Value]) -> Verdict {
        let point = |row: &Value| (row["case"].clone(), row["interval_ns"].clone());
        let is_default = |row: &&Value| row["mode"] == Mode::DEFAULT.name();
        let mut lines = Vec::new();
        for row in rows.iter().filter(is_default) {
            let references = rows
                .iter()
                .filter(|by| point(by) == point(row) && by["poll"].is_null() && beats(by, row));
            lines.extend(references.map(|by| {
                let shown = |row: &Value| {
                    let (mode, cpu) = (text(row, "mode"), cpu(row) * 100.0);
                    format!("{mode} ({:.2} exits, {cpu:.1} % of a CPU)", exits(row))
                };
                format!(
                    "{}, {:?}: {} is better than {}",
                    row["case"],
                    Duration::from_nanos(row["interval_ns"].as_u64().unwrap_or(0)),
                    shown(by),
                    shown(row)
                )
            }));
        }
        Verdict {
            fails: self.0.check && !lines.is_empty(),
            lines,
        }
    }
}

/// Exits for each wake-up, without the timer's.
fn exits(row: &Value) -> f64 {
    own_exits(row, "sender") + own_exits(row, "target")
}

/// The share of a CPU that the target's thread used.
fn cpu(row: &Value) -> f64 {
    number(row, "/cpu_per_second/guest") + number(row, "/cpu_per_second/host")
}

/// Whether a mode is better than another in both respects, exits and CPU time.
fn beats(row: &Value, other: &Value) -> bool {
    exits(row) + EXITS_APART < exits(other) && cpu(row) + CPU_APART < cpu(other)
}

fn row(point: &Point, measured: &Measured<Polling>) -> Value {
    let (mode, wakeups) = (measured.subject, &measured.sum);
    let measurement = &wakeups.measurement;
    let events = measurement.events();
    let wall = wakeups.usage.wall.as_secs_f64().max(f64::MIN_POSITIVE);
    let share = |time: Duration| time.as_secs_f64() / wall;
    let cpu = wakeups.usage.cpu;
    // Found by sampling, it may come out as more than there was.
    let in_guest = wakeups.usage.guest.min(cpu);
    let ns = |&cycles: &u64| (cycles as f64 * wakeups.ns_per_cycle) as u64;
    let mut latencies: Vec<u64> = measurement.cycles.iter().map(ns).collect();
    let [guest, host, halt] = wakeups.periods.map(|count| per_event(count, events));
    let mut row = json!({
        "bench": "poll",
        "case": point.distribution.name(),
        "interval_ns": point.interval.as_nanos() as u64,
        "achieved_interval_ns": wakeups.span.as_nanos() as u64 / wakeups.intervals.max(1),
        "target": "idle",
        "mode": mode.name(),
        "mechanism": mode.mechanism_name(),
        "device": mode.device(),
        "vcpus": VCPUS,
        "events": events,
        "delivered": measurement.delivered,
        "lost": measurement.lost,
        "duplicates": measurement.duplicates,
        "periods_per_event": {
            "guest": guest,
            "host": host,
            "halt": halt,
            "halt_polled": per_event(wakeups.halt_polls, events),
        },
        "cpu_per_second": {"guest": share(in_guest), "host": share(cpu - in_guest)},
        "polled_per_second": {
            "guest": share(wakeups.guest_polled),
            "host": share(wakeups.usage.polled + wakeups.halt_polled),
        },
        "contended_per_event": per_event(wakeups.usage.contended, events),
    });
    set(&mut row, "halt_poll_ns", mode.halt_poll_ns());
    set(&mut row, "window_ns", mode.window_ns());
    let poll = wakeups.poll.map(|poll| {
        json!({
            "guest_poll_ns": poll.guest_poll_ns,
            "host_poll_ns": poll.host_poll_ns,
            "budget": poll.budget,
        })
    });
    set(&mut row, "poll", poll);
    let posted = (measurement.posts.posts() != 0).then(|| posts(&measurement.posts));
    set(&mut row, "posts", posted);
    set_exits(&mut row, &measurement.sender, &measurement.target, events);
    set(&mut row, "latency_ns", Summary::of(&mut latencies));
    row
}

/// Shows nanoseconds as microseconds, with three digits.
fn micros(ns: f64) -> String {
    let us = ns / 1000.0;
    decimal(us, usize::from(us < 9.95))
}

/// Runs a job.
fn wake(
    machine: &mut Machine,
    mode: Mode,
    poll: Option<Poll>,
    point: &Point,
    seed: u64,
) -> Result<Wakeups, Error> {
    let khz = machine.tsc_khz();
    let sends = sends(point.interval);
    let intervals = point.distribution.intervals(point.interval, seed);
    let places = machine.shared()?.intervals.iter().take(sends as usize);
    for (place, interval) in places.zip(intervals) {
        place.store(cycles_exactly(interval, khz), SeqCst);
    }
    let job = Job {
        mechanism: mode.mechanism(),
        idle_mode: mode.idle_mode(),
        sends,
        patience: cycles_exactly(PATIENCE, khz),
        window: mode.window_ns().unwrap_or(0),
        ..Job::new(JobKind::Wake)
    };
    let counts = machine.run_job(Some(&job), JOB_LIMIT)?;
    Wakeups::collect(machine, poll, &counts)
}

/// The number of wake-ups of a job.
fn sends(interval: Duration) -> u32 {
    let fit = (JOB.as_nanos() / interval.as_nanos().max(1)).min((*SENDS.end()).into()) as u32;
    let bursts = fit / Distribution::BURST * Distribution::BURST;
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
            assert_eq!(expected % Distribution::BURST, 0);
        }
    }

    #[test]
    fn times_have_three_digits_at_most() {
        let shown = [950.0, 9_940.0, 9_960.0, 123_400.0, f64::NAN].map(micros);
        assert_eq!(shown, ["0.9", "9.9", "10", "123", "-"]);
    }
}
