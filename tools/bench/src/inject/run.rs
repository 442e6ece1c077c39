// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Measuring how interrupts get from a VMM to its guest.

use std::{path::Path, sync::atomic::Ordering::SeqCst};

use mini_guest::{Job, JobKind};
use nix::sys::resource::{setrlimit, Resource};
use serde_json::{json, Value};
use vmm::{cpus::CpuList, error::Error};

use super::{
    case::{InjectCase, Injection, TARGETS},
    ready::Ready,
    signal::{Signal, Sum},
};
use crate::{
    bench::{After, Bench, Measured, Piece},
    ground::Ground,
    row::{by_reason, number, per_event, set},
    session::{overcommit, Session, JOB_LIMIT},
    summary::Summary,
    table::{decimal, Column},
    target::Target,
};

/// The largest number of signals in a row by one mechanism: all exits must fit into the trace.
const PIECE: u32 = 256;
/// The fewest pieces of a case, however large its bursts are.
const MIN_PIECES: u32 = 10;
/// The number of files that may be open.
const MAX_FILES: u64 = 1 << 16;

/// Measures how interrupts get from a VMM to its guest.
pub struct Inject {
    cpus: CpuList,
    plan: Vec<InjectCase>,
    injections: Vec<Injection>,
    events: u32,
}

impl Inject {
    /// What targets do until they are interrupted.
    pub const TARGETS: [Target; 5] = TARGETS;

    /// Prepares to measure the cases of a plan by some mechanisms, with about `events` signals each.
    pub fn new(
        cpus: CpuList,
        plan: Vec<InjectCase>,
        injections: Vec<Injection>,
        events: u32,
    ) -> Result<Self, Error> {
        // Two for each signal of the largest burst, and for each of two targets.
        setrlimit(Resource::RLIMIT_NOFILE, MAX_FILES, MAX_FILES)
            .map_err(|error| Error::os("cannot have enough files open")(error.into()))?;
        Ok(Inject {
            cpus,
            plan,
            injections,
            events,
        })
    }

    fn place(&self, case: &InjectCase) -> Vec<usize> {
        match case.target {
            Target::Preempted => self.cpus.rest_together(case.vcpus()),
            _ => self.cpus.first_alone(case.vcpus()),
        }
    }

    /// Lets the targets take `bursts` bursts.
    fn take(&self, case: &InjectCase, ready: &mut Ready, bursts: u32) -> Result<Sum, Error> {
        let job = Job {
            idle_mode: case.target.idle_mode(true),
            // What each target has to wait for.
            sends: bursts / case.targets() * case.burst,
            ..Job::new(JobKind::Inject)
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
        let mut sum = sent?;
        sum.kicks = ready.delivered()? - before;
        let shared = ready.machine.shared()?;
        for (vcpu, counts) in counts.iter().enumerate().skip(1) {
            sum.exits += counts.exits(vcpu, 1)?;
            sum.handled += shared.slots[vcpu].interrupts.load(SeqCst);
        }
        Ok(sum)
    }

    fn row(&self, session: &Session, case: &InjectCase, measured: &mut Measured<Self>) -> Value {
        let (injection, sum) = (measured.subject, &mut measured.sum);
        let cycles = Summary::of(&mut sum.cycles);
        let per_event = |count: u64| per_event(count, sum.events);
        let mut row = json!({
            "bench": "inject",
            "case": case.name(),
            "target": case.target.name(),
            "mechanism": injection.name(),
            "device": injection.device(),
            "vcpus": case.vcpus(),
            "overcommit": overcommit(&self.place(case)),
            "events": sum.events,
            "delivered": sum.events - sum.lost,
            "lost": sum.lost,
            "handled": sum.handled,
            "system_calls_per_event": per_event(sum.system_calls),
            "kicks_per_event": per_event(sum.kicks),
            "exits_per_event": per_event(sum.exits.without_timer()),
            "exits_by_reason": by_reason(&sum.exits, sum.events),
            "timer_exits_per_event": per_event(sum.exits.timer),
            "cycles_per_burst": cycles,
        });
        let instructions = cycles.filter(|_| session.ground.counts_instructions());
        set(
            &mut row,
            "instructions_per_burst",
            instructions.map(|cycles| cycles.p50),
        );
        row
    }
}

impl Bench for Inject {
    type Case = InjectCase;
    type Subject = Injection;
    type Machine = Ready;
    type Sum = Sum;

    fn cases(&self) -> Vec<InjectCase> {
        self.plan.clone()
    }

    fn subjects(&self, case: &InjectCase) -> Vec<Injection> {
        let all = self.injections.iter().copied();
        all.filter(|&injection| case.is_for(injection)).collect()
    }

    fn device<'a>(&'a self, injection: &'a Injection) -> &'a Path {
        Path::new(injection.device())
    }

    fn rounds(&self, case: &InjectCase) -> u32 {
        let signals = case.bursts(PIECE) * case.burst;
        self.events.div_ceil(signals).max(MIN_PIECES)
    }

    fn boot(
        &self,
        session: &Session,
        case: &InjectCase,
        injection: &Injection,
    ) -> Result<Ready, Error> {
        let mut ready = Ready::boot(session, &self.place(case), case, *injection)?;
        self.take(case, &mut ready, 2)?;
        Ok(ready)
    }

    fn run_piece(&self, piece: Piece<'_, Self>) -> Result<After, Error> {
        let bursts = piece.case.bursts(PIECE);
        piece.sum.add(self.take(piece.case, piece.machine, bursts)?);
        Ok(After::Keep)
    }

    fn rows(&self, session: &Session, case: &InjectCase, all: &mut [Measured<Self>]) -> Vec<Value> {
        let mut rows: Vec<_> = all
            .iter_mut()
            .map(|one| self.row(session, case, one))
            .collect();
        let median = |row: &Value| row.pointer("/cycles_per_burst/p50").and_then(Value::as_f64);
        let is_reference = |row: &&Value| row["mechanism"] == Injection::Irqfd.name();
        let reference = rows.iter().find(is_reference).and_then(median);
        for row in &mut rows {
            let ratio = median(row).zip(reference).map(|(own, other)| own / other);
            row["cycles_ratio"] = json!(ratio);
        }
        rows
    }

    fn columns(&self, ground: &Ground) -> Vec<Column> {
        let unit = ground.unit();
        vec![
            Column::text("case", "case"),
            Column::text("target", "target"),
            Column::text("mechanism", "mechanism"),
            Column::number("events", "/events", 0),
            Column::number("exits\n(target)", "/exits_per_event", 3),
            Column::new("handled", |row| {
                decimal(number(row, "/handled") / number(row, "/events"), 3)
            }),
            Column::number("kicks", "/kicks_per_event", 3),
            Column::number("system\ncalls", "/system_calls_per_event", 3),
            Column::number(format!("{unit}\n(median)"), "/cycles_per_burst/p50", 0),
            Column::number(format!("{unit}\n(p99)"), "/cycles_per_burst/p99", 0),
            Column::number(format!("{unit}\n(ratio)"), "/cycles_ratio", 2),
        ]
    }

    fn vcpus(&self) -> Vec<usize> {
        vec![2, 3]
    }
}
