// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Measuring cases on several devices in turn.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use mini_guest::{Answer, IdleMode, Job, JobKind, Mechanism};
use pvirq_protocol::{ioctl::Poll, registers::Status};
use serde_json::{json, Value};
use vmm::{cpus::CpuList, error::Error, machine::Machine};

use super::{
    case::{Case, CaseGroup},
    measurement::{self, Measurement},
    size::Size,
};
use crate::{
    bench::{After, Bench, Measured, Piece, Verdict},
    clock::cycles,
    environment::halt_poll_ns,
    ground::Ground,
    row::{count, number, posts, set, set_exits, text},
    session::{is_baseline, overcommit, Session, GAP, JOB_LIMIT, PATIENCE},
    summary::{median_of_ratios, Summary},
    table::Column,
    target::HaltPoll,
};

/// How long the host polls for targets that let it, and how long the sender waits until it does.
const POLL: Duration = Duration::from_nanos(Poll::MAX_NS as u64);
/// The longest rest of a vCPU in a storm.
const STORM_REST: Duration = Duration::from_micros(100);
/// The number of pieces after which a case may end because it takes too long.
const PIECES_LATE: u32 = 2;

/// What devices are compared by, and by how many percent they may differ.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// Exits per event, more or fewer.
    Exits(f64),
    /// Cycles, of which fewer are no failure.
    Cycles(f64),
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The devices to compare; the first is what the others are compared with.
    pub devices: Vec<PathBuf>,
    /// About how many events each case has on each device.
    pub events: u32,
    /// The time for each case and device after which it ends with fewer events, if it is limited. A few pieces are always
    /// measured.
    pub limit: Option<Duration>,
    /// What makes the benchmark fail.
    pub bound: Option<Bound>,
}

/// A machine that waits for jobs.
pub struct Ready {
    machine: Machine,
    cpus: Vec<usize>,
    halt_poll: HaltPoll,
}

/// Measures cases of interrupts and of exits.
pub struct Ipi {
    options: Options,
    cpus: CpuList,
    groups: Vec<CaseGroup>,
    /// On which devices guests can register with a pvirq host, if that matters.
    posting: Vec<bool>,
}

impl Ipi {
    /// Prepares to measure the cases of a plan. If there are posts among them, tries on which devices guests can register.
    pub fn new(
        session: &mut Session,
        options: Options,
        plan: &[Case],
        note: &mut dyn FnMut(&str),
    ) -> Result<Self, Error> {
        let mut posting = vec![false; options.devices.len()];
        if plan.iter().any(Case::posts) {
            for (device, posts) in options.devices.iter().zip(&mut posting) {
                let what = format!("{}: registration", device.display());
                let register = |session: &Session, _, _: &mut dyn FnMut(&str)| {
                    let mut machine =
                        session.boot(device, &session.config(&session.cpus.in_turn(1)))?;
                    Ok(machine.register(JOB_LIMIT)? == Answer::Host(Status::Ok))
                };
                (*posts, _) = session.retry(is_baseline(device), &what, note, register)?;
            }
        }
        Ok(Ipi {
            cpus: session.cpus.clone(),
            groups: CaseGroup::of(plan),
            options,
            posting,
        })
    }

    /// Whether guests can register on a device.
    pub fn finds_pvirq(&self) -> bool {
        self.posting.contains(&true)
    }

    /// The job of a piece.
    fn job(&self, case: &Case, round: u32, khz: u32) -> Job {
        let size = Size::of(&self.cpus, case);
        let sends = size.sends(self.options.events);
        let rounds = size.rounds(sends);
        // The first rounds are longer by one if it does not divide.
        job(
            case,
            sends / rounds + u32::from(round < sends % rounds),
            round,
            khz,
        )
    }

    fn row(&self, session: &Session, measured: &Measured<Self>) -> Value {
        let (case, device) = &measured.subject;
        let measurement = &measured.sum;
        let events = measurement.events();
        let cycles = Summary::of(&mut measurement.cycles.clone());
        let mut row = json!({
            "bench": case.bench(),
            "case": case.name(),
            "target": case.target.name(),
            "mechanism": case.mechanism(),
            "device": self.options.devices[*device],
            "vcpus": case.vcpus,
            "overcommit": overcommit(&case.place().cpus(&self.cpus, case.vcpus)),
            "events": events,
            "delivered": measurement.delivered,
            "lost": measurement.lost,
            "duplicates": measurement.duplicates,
        });
        let halt_poll = match case.halt_poll {
            HaltPoll::Zero => Some(0),
            HaltPoll::Default if case.target.halts() => halt_poll_ns(),
            HaltPoll::Default => None,
        };
        set(&mut row, "halt_poll_ns", halt_poll);
        if case.posts() {
            row["posts"] = posts(&measurement.posts);
            row["native_sends"] = json!(measurement.native_sends);
        }
        set_exits(&mut row, &measurement.sender, &measurement.target, events);
        set(&mut row, "cycles_per_event", cycles);
        let instructions = cycles.filter(|_| session.ground.counts_instructions());
        set(
            &mut row,
            "instructions_per_event",
            instructions.map(|cycles| cycles.p50),
        );
        row
    }
}

impl Bench for Ipi {
    type Case = CaseGroup;
    type Subject = (Case, usize);
    type Machine = Ready;
    type Sum = Measurement;

    const KEEPS_MACHINES: bool = true;

    fn cases(&self) -> Vec<CaseGroup> {
        self.groups.clone()
    }

    /// Each case on each device where it can be measured.
    fn subjects(&self, group: &CaseGroup) -> Vec<(Case, usize)> {
        let devices = 0..self.options.devices.len();
        let pairs = group
            .0
            .iter()
            .flat_map(|&case| devices.clone().map(move |device| (case, device)));
        pairs
            .filter(|(case, device)| !case.posts() || self.posting[*device])
            .collect()
    }

    fn device<'a>(&'a self, (_, device): &'a (Case, usize)) -> &'a Path {
        &self.options.devices[*device]
    }

    /// A device has a machine whose guest has registered, and one whose guest has not.
    fn machine(&self, (case, device): &(Case, usize), _: usize) -> usize {
        2 * device + usize::from(case.posts())
    }

    fn rounds(&self, group: &CaseGroup) -> u32 {
        let size = Size::of(&self.cpus, group.first());
        size.rounds(size.sends(self.options.events))
    }

    fn is_over(&self, round: u32, elapsed: Duration, all: &[Measured<Self>]) -> bool {
        let limit = self.options.limit.map(|limit| limit * all.len() as u32);
        round >= PIECES_LATE && limit.is_some_and(|limit| elapsed > limit)
    }

    fn boot(
        &self,
        session: &Session,
        _: &CaseGroup,
        subject: &(Case, usize),
    ) -> Result<Ready, Error> {
        let (case, device) = subject;
        let cpus = case.place().cpus(&self.cpus, case.vcpus);
        let mut machine = session.boot(&self.options.devices[*device], &session.config(&cpus))?;
        if case.posts() {
            // For targets that let the host poll: for long, so that they are found at it.
            machine.set_poll(&Poll::fixed(Poll::MAX_NS))?;
            machine.register_or_fail(JOB_LIMIT)?;
        }
        if case.halt_poll == HaltPoll::Zero {
            machine.set_halt_poll(0)?;
        }
        // What happens once only, such as first accesses to memory, is not part of the measurement.
        let job = self.job(case, 0, machine.tsc_khz());
        machine.run_job(Some(&Job { sends: 2, ..job }), JOB_LIMIT)?;
        Ok(Ready {
            machine,
            cpus,
            halt_poll: case.halt_poll,
        })
    }

    fn is_usable(&self, ready: &Ready, group: &CaseGroup) -> bool {
        let case = group.first();
        let cpus = case.place().cpus(&self.cpus, case.vcpus);
        ready.cpus == cpus && ready.halt_poll <= case.halt_poll
    }

    fn run_piece(&self, piece: Piece<'_, Self>) -> Result<After, Error> {
        let (case, _) = piece.subject;
        let ready = piece.machine;
        if case.halt_poll == HaltPoll::Zero && ready.halt_poll != HaltPoll::Zero {
            ready.machine.set_halt_poll(0)?;
            ready.halt_poll = HaltPoll::Zero;
        }
        let job = self.job(case, piece.round, ready.machine.tsc_khz());
        let counts = ready.machine.run_job(Some(&job), JOB_LIMIT)?;
        let measured = Measurement::collect(&ready.machine, case.kind, &counts)?;
        let (lost, duplicates) = (measured.lost, measured.duplicates);
        if (lost, duplicates) != (0, 0) {
            (piece.note)(&format!(
                "{}: {case}, piece {}: {lost} interrupts were lost, {duplicates} came again\n{}",
                self.device(piece.subject).display(),
                piece.round,
                measured.console
            ));
        }
        piece.sum.add(measured);
        Ok(match lost {
            0 => After::Keep,
            _ => After::Renew,
        })
    }

    /// A device is compared with the first one by the same mechanism. No guest of the plain device can use pvirq, so that
    /// is compared with the x2APIC there.
    fn rows(&self, session: &Session, _: &CaseGroup, all: &mut [Measured<Self>]) -> Vec<Value> {
        let reference = |(case, device): &(Case, usize)| {
            let mechanism = match case.posts() {
                true => Mechanism::X2Apic,
                false if *device == 0 => return None,
                false => case.mechanism,
            };
            let is_reference =
                |(case, device): (Case, usize)| (device, case.mechanism) == (0, mechanism);
            all.iter().find(|one| is_reference(one.subject))
        };
        let rows = all.iter().map(|one| {
            let mut row = self.row(session, one);
            let relative =
                reference(&one.subject).map(|other| relative(&one.sum.pieces, &other.sum.pieces));
            set(&mut row, "relative", relative);
            row
        });
        rows.collect()
    }

    fn columns(&self, ground: &Ground) -> Vec<Column> {
        let unit = ground.unit();
        vec![
            Column::text("case", "case"),
            Column::text("mechanism", "mechanism"),
            Column::new("target", |row| match row["halt_poll_ns"].as_u64() {
                Some(ns) => format!("{}, poll {} µs", text(row, "target"), ns / 1000),
                None => text(row, "target").into(),
            }),
            Column::number("vCPUs", "/vcpus", 0),
            Column::text("device", "device"),
            Column::exits("event"),
            Column::number("exits\n(ratio)", "/relative/exits_without_timer", 3),
            Column::number(format!("{unit}\n(median)"), "/cycles_per_event/p50", 0),
            Column::number(format!("{unit}\n(ratio)"), "/relative/cycles", 2),
        ]
    }

    fn vcpus(&self) -> Vec<usize> {
        self.groups
            .iter()
            .map(|group| group.first().vcpus)
            .collect()
    }

    fn judge(&self, rows: &[Value]) -> Verdict {
        let sum = |name| rows.iter().map(|row| count(row, name)).sum::<u64>();
        let mut verdict = Verdict::default();
        if rows.iter().any(|row| row["posts"].is_object()) {
            let line = "pvirq is compared with x2apic on the first device.";
            verdict.lines.push(line.into());
        }
        verdict.lines.push(format!(
            "{} events: {} lost, {} came again.",
            sum("events"),
            sum("lost"),
            sum("duplicates")
        ));
        let compared = rows
            .iter()
            .filter(|row| row["relative"].is_object() && is_comparable(row));
        for row in compared {
            let (exits, cycles) = (
                number(row, "/relative/exits_without_timer"),
                number(row, "/relative/cycles"),
            );
            let (ratio, difference, what, percent) = match self.options.bound {
                Some(Bound::Exits(percent)) => (exits, (exits - 1.0).abs(), "exits", percent),
                Some(Bound::Cycles(percent)) => (cycles, cycles - 1.0, "cycles", percent),
                None => break,
            };
            // What is not a number is not within any bounds.
            let is_within = difference * 100.0 <= percent;
            if !is_within {
                verdict.fails = true;
                verdict.lines.push(format!(
                    "{}: {} {} {} by {}: {ratio:.4} times as many {what} as on the first device",
                    text(row, "device"),
                    text(row, "bench"),
                    text(row, "case"),
                    text(row, "target"),
                    text(row, "mechanism"),
                ));
            }
        }
        verdict
    }
}

/// Whether as many exits are expected as on the first device: not by a mechanism that it does not have, and not if they
/// depend on which of several targets happens to run on their CPU when it is interrupted.
fn is_comparable(row: &Value) -> bool {
    row["case"] != "storm"
        && row["posts"].is_null()
        && (row["overcommit"] == 1 || row["target"] == "halted")
}

/// Compares pieces with those that were measured right before or after.
fn relative(pieces: &[measurement::Piece], first: &[measurement::Piece]) -> Value {
    let ratio = |of: fn(&measurement::Piece) -> f64| {
        let values = |pieces: &[measurement::Piece]| pieces.iter().map(of).collect::<Vec<_>>();
        // Nothing was delivered if there is no piece. That is no equality.
        median_of_ratios(&values(pieces), &values(first))
    };
    let (pairs, exits) = ratio(|piece| piece.exits);
    let (_, cycles) = ratio(|piece| piece.cycles);
    json!({"pairs": pairs, "exits_without_timer": exits, "cycles": cycles})
}

/// The job of a piece.
fn job(case: &Case, sends: u32, round: u32, khz: u32) -> Job {
    let gap = match case.kind {
        JobKind::Storm => STORM_REST,
        _ if case.idle_mode() == IdleMode::PollingHost => POLL,
        _ if case.target.halts() => GAP,
        _ => Duration::ZERO,
    };
    Job {
        mechanism: case.mechanism,
        pattern: case.pattern,
        idle_mode: case.idle_mode(),
        sends,
        gap: cycles(gap, khz),
        // The same for all devices and mechanisms.
        seed: round.into(),
        patience: cycles(PATIENCE, khz),
        ..Job::new(case.kind)
    }
}

#[cfg(test)]
mod tests {
    use exit_count::exits::Reason;
    use pvirq_protocol::Tally;

    use super::*;
    use crate::{
        ipi::{
            case::{ipi_plan, Extent},
            size::tests::plan,
        },
        table::table,
        target::Target,
    };

    fn measurement(exits: u64, timer: u64) -> Measurement {
        let mut measurement = Measurement {
            delivered: 100,
            cycles: (1..=100).collect(),
            ..Default::default()
        };
        (0..exits).for_each(|_| measurement.sender.count(Reason::Msr));
        (0..timer).for_each(|_| measurement.target.count(Reason::Intr));
        measurement.target.timer = timer;
        measurement.pieces = vec![measurement::Piece {
            exits: exits as f64 / 100.0,
            cycles: 50.0,
        }];
        measurement
    }

    fn rows_on(ground: Ground, first: &Measurement, second: &Measurement) -> (Ipi, Vec<Value>) {
        let plan = ipi_plan(&Extent {
            unicast: vec![2],
            ..Default::default()
        });
        let cpus: CpuList = "0-1".parse().unwrap();
        let mut session = Session::new(cpus.clone(), true);
        session.ground = ground;
        let ipi = Ipi {
            options: Options {
                devices: ["/dev/kvm", "/dev/pvirq"].map(PathBuf::from).into(),
                events: 100,
                limit: None,
                bound: Some(Bound::Exits(2.0)),
            },
            cpus,
            groups: CaseGroup::of(&plan),
            posting: vec![false, true],
        };
        // Halted targets.
        let measured = [(3, 0, first), (3, 1, second), (5, 1, second)];
        let mut all = measured.map(|(case, device, sum): (usize, usize, _)| Measured {
            subject: (plan[case], device),
            sum: sum.clone(),
            cpu_faults: 0,
        });
        let rows = ipi.rows(&session, &ipi.groups[1], &mut all);
        (ipi, rows)
    }

    fn rows(first: &Measurement, second: &Measurement) -> Vec<Value> {
        rows_on(Ground::Hardware, first, second).1
    }

    #[test]
    fn rows_are_as_the_schema_says() {
        let rows = rows(&measurement(100, 20), &measurement(150, 30));
        let row = &rows[1];
        for (key, value) in [
            ("bench", "ipi"),
            ("case", "unicast"),
            ("target", "halted"),
            ("mechanism", "x2apic"),
            ("device", "/dev/pvirq"),
        ] {
            assert_eq!(row[key], value);
        }
        for (key, value) in [
            ("vcpus", 2),
            ("overcommit", 1),
            ("events", 100),
            ("delivered", 100),
            ("lost", 0),
        ] {
            assert_eq!(row[key], value, "{key}");
        }
        assert_eq!(
            row["exits_per_event"],
            json!({"sender": 1.5, "target": 0.3})
        );
        assert_eq!(row["exits_by_reason"]["sender"]["msr"], 1.5);
        for reason in ["msr", "hlt", "io", "intr"] {
            assert!(row["exits_by_reason"]["target"][reason].is_number());
        }
        assert_eq!(row["timer_exits_per_event"]["target"], 0.3);
        let cycles = json!({"p50": 50, "p99": 99, "mean": 50.5});
        assert_eq!(row["cycles_per_event"], cycles);
        assert_eq!(row["relative"]["exits_without_timer"], 1.5);
        for absent in ["posts", "native_sends", "instructions_per_event"] {
            assert_eq!(row.get(absent), None);
        }
        assert_eq!(rows[0].get("relative"), None);
    }

    #[test]
    fn rows_of_pvirq_have_posts_and_are_compared_with_the_plain_device() {
        let posted = Measurement {
            posts: Tally {
                coalesced: 1,
                elided: 2,
                kicked: 97,
            },
            native_sends: 97,
            ..measurement(50, 0)
        };
        let rows = rows(&measurement(100, 0), &posted);
        let row = &rows[2];
        assert_eq!(
            (text(row, "mechanism"), text(row, "device")),
            ("pvirq", "/dev/pvirq")
        );
        assert_eq!(
            row["posts"],
            json!({"coalesced": 1, "elided": 2, "kicked": 97})
        );
        assert_eq!(row["native_sends"], 97);
        assert_eq!(row["relative"]["exits_without_timer"], 0.5);
        assert!(is_comparable(&rows[1]) && !is_comparable(row));
    }

    #[test]
    fn what_delivered_nothing_is_equal_to_nothing() {
        let lost = Measurement {
            lost: 5,
            ..Default::default()
        };
        let (ipi, rows) = rows_on(Ground::Hardware, &measurement(1, 0), &lost);
        let misdelivered: u64 = rows.iter().map(|row| ipi.misdelivered(row)).sum();
        assert_eq!(misdelivered, 10);
        assert!(number(&rows[1], "/relative/exits_without_timer").is_nan());
        assert_eq!(rows[1].get("cycles_per_event"), None);
        assert!(ipi.judge(&rows).fails);
    }

    #[test]
    fn devices_may_differ_within_bounds() {
        let judge = |exits| {
            let (ipi, rows) = rows_on(
                Ground::Hardware,
                &measurement(100, 0),
                &measurement(exits, 0),
            );
            ipi.judge(&rows)
        };
        assert!(!judge(101).fails);
        let verdict = judge(103);
        assert!(verdict.fails);
        assert!(verdict.lines[2].contains("x2apic: 1.0300 times as many exits"));
    }

    #[test]
    fn bochs_counts_instructions() {
        let (first, second) = (measurement(100, 0), measurement(50, 0));
        for ground in [
            Ground::Bochs,
            Ground::QemuTcg,
            Ground::KvmNested,
            Ground::Hardware,
        ] {
            let is_bochs = ground == Ground::Bochs;
            let (ipi, rows) = rows_on(ground.clone(), &first, &second);
            let instructions = is_bochs.then(|| json!(50));
            assert_eq!(rows[0].get("instructions_per_event"), instructions.as_ref());
            assert_eq!(rows[0]["cycles_per_event"]["p50"], 50);
            let shown = table(&ipi.columns(&ground), &rows).to_string();
            assert_eq!(shown.contains("instructions"), is_bochs, "{shown}");
            assert_eq!(shown.contains("cycles"), !is_bochs, "{shown}");
        }
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
