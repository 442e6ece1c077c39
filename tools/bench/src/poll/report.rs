// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Results, as JSON: schema `pvirq-bench/1`, rows of `bench` "poll".

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use exit_count::exits::{Exits, Reason};
use pvirq::device;
use pvirq_protocol::ioctl::Poll;
use serde::{Deserialize, Serialize};
use vmm::{cpus::CpuList, error::Error};

use super::{Measured, Mode, Session};
use crate::{
    environment::Environment,
    report::{per_event, Posts, Sides},
    results::SCHEMA,
    summary::Summary,
};

/// What two modes have to differ by to count as different: exits for each wake-up.
const EXITS_APART: f64 = 0.05;
/// The same: the share of a CPU.
const CPU_APART: f64 = 0.02;

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: &'static str,
    /// Where it was measured.
    pub environment: Environment,
    /// One for each point and mode.
    pub rows: Vec<Row>,
}

/// A mode at a point.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The benchmark: "poll".
    pub bench: &'static str,
    /// How the intervals are distributed.
    pub case: &'static str,
    /// The mean interval that was wanted, in ns.
    pub interval_ns: u64,
    /// The mean interval that there was: a target that is not idle yet is not woken.
    pub achieved_interval_ns: u64,
    /// What the target does: "idle".
    pub target: &'static str,
    /// How it idles.
    pub mode: &'static str,
    /// How the sender sends.
    pub mechanism: &'static str,
    /// The device.
    pub device: PathBuf,
    /// The number of vCPUs.
    pub vcpus: usize,
    /// How long KVM polls, if that is not left to pvirq.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halt_poll_ns: Option<u32>,
    /// How long the guest polls at most, if it decides that itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_ns: Option<u32>,
    /// pvirq's parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poll: Option<Parameters>,
    /// Wake-ups.
    pub events: u64,
    /// Those that were acknowledged.
    pub delivered: u64,
    /// Those that were not.
    pub lost: u64,
    /// Interrupts that came again.
    pub duplicates: u64,
    /// What became of posts, where there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posts: Option<Posts>,
    /// Exits per wake-up.
    pub exits_per_event: Sides<f64>,
    /// Exits per wake-up, by reason.
    pub exits_by_reason: Sides<BTreeMap<&'static str, f64>>,
    /// Exits per wake-up that the host's timer caused; part of those by `intr`.
    pub timer_exits_per_event: Sides<f64>,
    /// How many exits fewer than by HLT alone, per wake-up, on both sides and without the timer's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved_per_event: Option<f64>,
    /// The target's idle periods, per wake-up.
    pub periods_per_event: Periods,
    /// How long a wake-up took: from before the send until the target's handler ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ns: Option<Summary>,
    /// The CPU time that the target's thread used, per second.
    pub cpu_per_second: Shares,
    /// The time that was burnt by polling, per second.
    pub polled_per_second: Shares,
    /// How often pvirq did not poll, or stopped, for the sake of other tasks or for want of budget, per wake-up.
    pub contended_per_event: f64,
}

/// Idle periods, by where they ended.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Periods {
    /// While the guest polled.
    pub guest: f64,
    /// While pvirq polled.
    pub host: f64,
    /// In a halt.
    pub halt: f64,
    /// Of those, while KVM polled.
    pub halt_polled: f64,
}

/// Shares of a CPU.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shares {
    /// In the guest.
    pub guest: f64,
    /// In the host.
    pub host: f64,
}

impl Shares {
    /// Both.
    pub fn total(&self) -> f64 {
        self.guest + self.host
    }
}

/// pvirq's parameters.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Parameters {
    /// The longest window of the guest.
    pub guest_poll_ns: u32,
    /// The longest window of the host.
    pub host_poll_ns: u32,
    /// The share of a CPU, in percent.
    pub budget: u32,
}

impl Row {
    /// Exits for each wake-up, without the timer's.
    pub fn exits(&self) -> f64 {
        let (all, timer) = (&self.exits_per_event, &self.timer_exits_per_event);
        all.sender + all.target - timer.sender - timer.target
    }

    /// Whether this is better than another mode at the same point in both respects, exits and CPU.
    fn beats(&self, other: &Row) -> bool {
        self.exits() + EXITS_APART < other.exits()
            && self.cpu_per_second.total() + CPU_APART < other.cpu_per_second.total()
    }
}

/// A mode that is beaten by a reference at some point.
pub struct Beaten<'a> {
    /// The one that is better in both respects.
    pub by: &'a Row,
    /// The one that is not.
    pub row: &'a Row,
}

impl fmt::Display for Beaten<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Beaten { by, row } = self;
        write!(
            f,
            "{}, {:?}: {} ({:.2} exits, {:.1} % of a CPU) is better than {} ({:.2}, {:.1} %)",
            row.case,
            Duration::from_nanos(row.interval_ns),
            by.mode,
            by.exits(),
            by.cpu_per_second.total() * 100.0,
            row.mode,
            row.exits(),
            row.cpu_per_second.total() * 100.0,
        )
    }
}

impl Report {
    /// Begins a report.
    pub fn new(cpus: &CpuList) -> Result<Self, Error> {
        Ok(Report {
            schema: SCHEMA,
            environment: Environment::of_host(cpus.len(), vec![2], device::present())?,
            rows: Vec::new(),
        })
    }

    /// Adds what was measured at one point.
    pub fn add(&mut self, session: &Session, measured: &[Measured]) {
        let mut rows: Vec<Row> = measured
            .iter()
            .map(|one| row(one, session.poll(one.mode)))
            .collect();
        let halt = rows.iter().find(|row| row.mode == Mode::Halt.name());
        if let Some(exits) = halt.map(Row::exits) {
            for row in &mut rows {
                row.saved_per_event = Some(exits - row.exits());
            }
        }
        self.rows.extend(rows);
        self.environment.baseline_runs = session.baseline().runs;
        self.environment.baseline_failures = session.baseline().failures;
        self.environment.cpu_faults = session.cpu_faults();
    }

    /// The rows of each point.
    pub fn points(&self) -> impl Iterator<Item = &[Row]> {
        self.rows
            .chunk_by(|one, other| (one.case, one.interval_ns) == (other.case, other.interval_ns))
    }

    /// Where a reference is better than pvirq's default policy in both respects.
    pub fn beaten(&self) -> Vec<Beaten<'_>> {
        let default = Mode::DEFAULT.name();
        self.points()
            .filter_map(|rows| Some((rows, rows.iter().find(|row| row.mode == default)?)))
            .flat_map(|(rows, row)| {
                let references = rows.iter().filter(|by| by.poll.is_none());
                references
                    .filter(|by| by.beats(row))
                    .map(move |by| Beaten { by, row })
            })
            .collect()
    }

    /// Interrupts that were lost or came twice.
    pub fn misdelivered(&self) -> u64 {
        self.rows.iter().map(|row| row.lost + row.duplicates).sum()
    }
}

fn row(measured: &Measured, poll: Option<Poll>) -> Row {
    let Measured {
        point,
        mode,
        wakeups,
    } = measured;
    let measurement = &wakeups.measurement;
    let events = measurement.events();
    let (sender, target) = (measurement.sender, measurement.target);
    let per_event = |count| per_event(count, events);
    let by_reason = |exits: &Exits| {
        Reason::ALL
            .map(|reason| (reason.name(), per_event(exits[reason])))
            .into_iter()
            .collect()
    };
    let wall = wakeups.usage.wall.as_secs_f64().max(f64::MIN_POSITIVE);
    let share = |time: Duration| time.as_secs_f64() / wall;
    let cpu = wakeups.usage.cpu;
    // Found by sampling, it may come out as more than there was.
    let in_guest = wakeups.usage.guest.min(cpu);
    let mut latencies: Vec<u64> = measurement
        .cycles
        .iter()
        .map(|&cycles| (cycles as f64 * wakeups.ns_per_cycle) as u64)
        .collect();
    let [guest, host, halt] = wakeups.periods.map(per_event);
    Row {
        bench: "poll",
        case: point.arrivals.name(),
        interval_ns: point.interval.as_nanos() as u64,
        achieved_interval_ns: wakeups.span.as_nanos() as u64 / wakeups.intervals.max(1),
        target: "idle",
        mode: mode.name(),
        mechanism: mode.mechanism_name(),
        device: mode.device().into(),
        vcpus: 2,
        halt_poll_ns: mode.halt_poll_ns(),
        window_ns: mode.window_ns(),
        poll: poll.map(|poll| Parameters {
            guest_poll_ns: poll.guest_poll_ns,
            host_poll_ns: poll.host_poll_ns,
            budget: poll.budget,
        }),
        events,
        delivered: measurement.delivered,
        lost: measurement.lost,
        duplicates: measurement.duplicates,
        posts: (measurement.posts.posts() != 0).then(|| measurement.posts.into()),
        exits_per_event: Sides {
            sender: per_event(sender.total()),
            target: per_event(target.total()),
        },
        exits_by_reason: Sides {
            sender: by_reason(&sender),
            target: by_reason(&target),
        },
        timer_exits_per_event: Sides {
            sender: per_event(sender.timer),
            target: per_event(target.timer),
        },
        saved_per_event: None,
        periods_per_event: Periods {
            guest,
            host,
            halt,
            halt_polled: per_event(wakeups.halt_polls),
        },
        latency_ns: Summary::of(&mut latencies),
        cpu_per_second: Shares {
            guest: share(in_guest),
            host: share(cpu - in_guest),
        },
        polled_per_second: Shares {
            guest: share(wakeups.guest_polled),
            host: share(wakeups.usage.polled + wakeups.halt_polled),
        },
        contended_per_event: per_event(wakeups.usage.contended),
    }
}
