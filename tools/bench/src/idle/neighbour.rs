// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What an idle vCPU that is woken again and again leaves to a task that would have its CPU to itself.

use std::{
    cell::RefCell,
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use mini_guest::JobKind;
use serde_json::{json, Value};
use vmm::{error::Error, machine::Machine};

use super::{
    method::{IdleMethod, Options, TARGET},
    task::Task,
};
use crate::{
    bench::{After, Bench, Measured, Piece, Verdict},
    ground::Ground,
    row::{number, per_event, set},
    session::{Session, JOB_LIMIT},
    summary::{median, median_of_ratios},
    table::Column,
};

/// How often the vCPU is woken.
const INTERVAL: Duration = Duration::from_millis(1);
/// How long a piece takes.
const PIECE: Duration = Duration::from_millis(500);

/// Measures the neighbour's throughput.
pub struct Neighbour {
    options: Options,
    /// It computes from the first piece to the last.
    task: RefCell<Option<Task>>,
}

impl Neighbour {
    /// Begins without a neighbour.
    pub fn new(options: Options) -> Self {
        Neighbour {
            options,
            task: RefCell::default(),
        }
    }
}

/// What pieces add up to.
#[derive(Default)]
pub struct Sum {
    wakes: u64,
    exits: u64,
    cpu: Duration,
    polled: u64,
    seconds: f64,
    loops_per_s: Vec<f64>,
}

impl Bench for Neighbour {
    type Case = &'static str;
    type Subject = IdleMethod;
    type Machine = Machine;
    type Sum = Sum;

    fn cases(&self) -> Vec<&'static str> {
        vec!["neighbour"]
    }

    fn subjects(&self, _: &&'static str) -> Vec<IdleMethod> {
        vec![IdleMethod::Hlt(0), IdleMethod::Idle(None)]
    }

    fn device<'a>(&'a self, method: &'a IdleMethod) -> &'a Path {
        self.options.device(method)
    }

    fn rounds(&self, _: &&'static str) -> u32 {
        self.options.pairs
    }

    fn boot(
        &self,
        session: &Session,
        _: &&'static str,
        method: &IdleMethod,
    ) -> Result<Machine, Error> {
        self.options.boot(session, method, true)
    }

    fn run_piece(&self, piece: Piece<'_, Self>) -> Result<After, Error> {
        let (machine, sum) = (piece.machine, piece.sum);
        let mut task = self.task.borrow_mut();
        let task = match &mut *task {
            Some(task) => task,
            none => {
                let task = none.insert(Task::new(piece.session.cpus.first_alone(2)[TARGET])?);
                task.begin()?;
                task.await_first()?;
                task
            }
        };
        let sends = (PIECE.as_nanos() / INTERVAL.as_nanos()) as u32;
        let khz = machine.tsc_khz();
        let job = piece.subject.job(JobKind::Tick, sends, INTERVAL, 0, khz);

        let (start, before) = (Instant::now(), task.loops());
        let counts = machine.run_job(Some(&job), JOB_LIMIT)?;
        let (passed, loops) = (start.elapsed().as_secs_f64(), task.loops() - before);
        sum.loops_per_s.push(loops as f64 / passed);
        sum.seconds += passed;

        sum.exits += counts[TARGET].trace.total();
        sum.cpu += counts[TARGET].usage.cpu;
        let slot = &machine.shared()?.slots[TARGET];
        sum.wakes += slot.interrupts.load(SeqCst);
        sum.polled += slot.idle.in_guest.load(SeqCst) + slot.idle.in_host.load(SeqCst);
        Ok(After::Keep)
    }

    fn rows(&self, _: &Session, _: &&'static str, all: &mut [Measured<Self>]) -> Vec<Value> {
        self.task.take();
        let (_, ratio) = median_of_ratios(&all[1].sum.loops_per_s, &all[0].sum.loops_per_s);
        let rows = all.iter_mut().enumerate().map(|(index, one)| {
            let sum = &mut one.sum;
            let mut row = json!({
                "bench": "idle",
                "case": "neighbour",
                "mechanism": one.subject.name(),
                "device": self.device(&one.subject),
                "interval_ns": INTERVAL.as_nanos() as u64,
                "pieces": sum.loops_per_s.len(),
                "wakes_per_s": sum.wakes as f64 / sum.seconds,
                "exits_per_wake": per_event(sum.exits, sum.wakes),
                "cpu_us_per_wake": sum.cpu.as_secs_f64() * 1e6 / sum.wakes.max(1) as f64,
                "polled": sum.polled,
                "loops_per_s": median(&mut sum.loops_per_s),
            });
            set(&mut row, "relative", (index != 0).then_some(ratio));
            row
        });
        rows.collect()
    }

    fn columns(&self, _: &Ground) -> Vec<Column> {
        vec![
            Column::text("neighbour of", "mechanism"),
            Column::text("device", "device"),
            Column::number("loops/s", "/loops_per_s", 0),
            Column::number("ratio", "/relative", 4),
            Column::number("pairs", "/pieces", 0),
            Column::number("wake-ups/s", "/wakes_per_s", 0),
            Column::number("exits per\nwake-up", "/exits_per_wake", 2),
            Column::number("CPU per\nwake-up, µs", "/cpu_us_per_wake", 0),
            Column::number("ended while\npolling", "/polled", 0),
        ]
    }

    fn judge(&self, rows: &[Value]) -> Verdict {
        self.options
            .judge(rows, |row| 1.0 - number(row, "/relative"))
    }
}
