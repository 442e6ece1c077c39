// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How soon an interrupt is taken that comes during polling: the host's in KVM, the guest's in its window, or the host's in
//! the idle call.

use std::{
    arch::x86_64::{_mm_lfence, _rdtsc},
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use mini_guest::{JobKind, Source, CYCLES_LEN};
use pvirq_protocol::ioctl::Poll;
use serde_json::{json, Value};
use vmm::{boot, error::Error, machine::Machine};

use super::method::{IdleMethod, Options, PATIENCE, TARGET};
use crate::{
    bench::{After, Bench, Measured, Piece, Verdict},
    clock::{cycles, to_ns},
    ground::Ground,
    row::number,
    session::{Session, JOB_LIMIT},
    summary::{median_of_ratios, Summary},
    table::Column,
};

/// How long both poll: for longer than any interrupt takes to come.
const WINDOW: u32 = Poll::MAX_NS;
/// When the interrupt comes: within so long after so long.
const LEAST: Duration = Duration::from_micros(300);
const SPREAD: Duration = Duration::from_micros(300);
/// Interrupts in a row.
const PIECE: u32 = 50;
/// As many again, for KVM to find its window.
const WARM_UP: u32 = 40;

/// Measures how soon interrupts from a source are taken.
pub struct Latency {
    options: Options,
    source: Source,
    name: &'static str,
}

impl Latency {
    /// Measures the interrupt of the vCPU's own timer: from its deadline to the handler.
    pub fn of_timer(options: Options) -> Self {
        Latency {
            options,
            source: Source::Timer,
            name: "timer",
        }
    }

    /// Measures that of an eventfd: from the signal until the VMM sees the acknowledgement.
    pub fn of_irqfd(options: Options) -> Self {
        Latency {
            options,
            source: Source::Event,
            name: "irqfd",
        }
    }
}

/// What pieces add up to.
#[derive(Default)]
pub struct Sum {
    events: u64,
    polled: u64,
    ns: Vec<u64>,
    medians: Vec<f64>,
}

impl Bench for Latency {
    type Case = &'static str;
    type Subject = IdleMethod;
    type Machine = Machine;
    type Sum = Sum;

    fn cases(&self) -> Vec<&'static str> {
        vec![self.name]
    }

    fn subjects(&self, _: &&'static str) -> Vec<IdleMethod> {
        let in_guest = Poll {
            guest_poll_ns: WINDOW,
            ..Poll::fixed(0)
        };
        vec![
            IdleMethod::Hlt(WINDOW),
            IdleMethod::Idle(Some(in_guest)),
            IdleMethod::Idle(Some(Poll::fixed(WINDOW))),
        ]
    }

    fn device<'a>(&'a self, method: &'a IdleMethod) -> &'a Path {
        self.options.device(method)
    }

    fn rounds(&self, _: &&'static str) -> u32 {
        self.options.events.div_ceil(PIECE).max(2)
    }

    fn boot(
        &self,
        session: &Session,
        _: &&'static str,
        method: &IdleMethod,
    ) -> Result<Machine, Error> {
        let mut machine = self.options.boot(session, method, true)?;
        let least = cycles(LEAST, machine.tsc_khz());
        let arrivals = &machine.shared()?.arrivals;
        arrivals.set_up(&[self.source], 0, least, false);
        if self.source == Source::Event {
            set_bell(&machine)?;
        }
        run(&mut machine, method, WARM_UP, 0)?;
        Ok(machine)
    }

    fn run_piece(&self, piece: Piece<'_, Self>) -> Result<After, Error> {
        let (machine, sum) = (piece.machine, piece.sum);
        let halt_polls = run(machine, piece.subject, PIECE, piece.round)?;
        let (khz, shared) = (machine.tsc_khz(), machine.shared()?);
        let events = shared.events.load(SeqCst);
        let places = shared.cycles[..CYCLES_LEN.min(events as usize)].iter();
        let mut ns: Vec<_> = places
            .map(|cycles| to_ns(cycles.load(SeqCst), khz))
            .collect();
        let ended = shared.arrivals.ended.iter();
        sum.polled += match piece.subject {
            IdleMethod::Hlt(_) => halt_polls,
            // While the guest or the host polled.
            IdleMethod::Idle(_) => ended
                .flat_map(|steps| &steps[..2])
                .map(|count| count.load(SeqCst))
                .sum(),
        };
        sum.events += events;
        let median = Summary::of(&mut ns).map(|ns| ns.p50 as f64);
        sum.medians.extend(median);
        sum.ns.extend(ns);
        Ok(After::Keep)
    }

    fn rows(&self, _: &Session, _: &&'static str, all: &mut [Measured<Self>]) -> Vec<Value> {
        let summaries: Vec<_> = all
            .iter_mut()
            .map(|one| Summary::of(&mut one.sum.ns))
            .collect();
        let first = summaries.first().copied().flatten().zip(all.first());
        let rows = all
            .iter()
            .zip(&summaries)
            .enumerate()
            .map(|(index, (one, ns))| {
                let mut row = json!({
                    "bench": "idle",
                    "case": self.name,
                    "mechanism": one.subject.name(),
                    "device": self.device(&one.subject),
                    "poller": poller(&one.subject),
                    "window_ns": WINDOW,
                    "events": one.sum.events,
                    "polled": one.sum.polled,
                    "ns": ns,
                });
                if let (1.., Some(ns), Some((reference, first))) = (index, ns, first) {
                    let ratio = |of: u64, to: u64| of as f64 / to as f64;
                    let (pairs, median) = median_of_ratios(&one.sum.medians, &first.sum.medians);
                    row["relative"] = json!({
                        "pairs": pairs,
                        "p50": ratio(ns.p50, reference.p50),
                        "p99": ratio(ns.p99, reference.p99),
                        "median_of_pairs_p50": median,
                    });
                }
                row
            });
        rows.collect()
    }

    fn columns(&self, ground: &Ground) -> Vec<Column> {
        let unit = match ground.counts_instructions() {
            true => "instructions",
            false => "ns",
        };
        vec![
            Column::text("case", "case"),
            Column::text("device", "device"),
            Column::text("poller", "poller"),
            Column::number("events", "/events", 0),
            Column::number("while\npolling", "/polled", 0),
            Column::number(format!("{unit}\n(p50)"), "/ns/p50", 0),
            Column::number(format!("{unit}\n(p99)"), "/ns/p99", 0),
            Column::number(format!("{unit}\n(mean)"), "/ns/mean", 0),
            Column::number("ratio\n(p50)", "/relative/p50", 3),
            Column::number("ratio\n(p99)", "/relative/p99", 3),
            Column::number("ratio\n(pairs)", "/relative/median_of_pairs_p50", 3),
        ]
    }

    fn judge(&self, rows: &[Value]) -> Verdict {
        self.options.judge(rows, |row| {
            let ratio = |name| number(row, name);
            ratio("/relative/p50").max(ratio("/relative/p99")) - 1.0
        })
    }
}

/// What polls.
fn poller(method: &IdleMethod) -> &'static str {
    match method {
        IdleMethod::Hlt(_) => "kvm",
        IdleMethod::Idle(Some(poll)) if poll.host_poll_ns == 0 => "guest",
        IdleMethod::Idle(_) => "idle-call",
    }
}

/// Signals the eventfd when the guest rings, and notes how long the acknowledgement takes.
fn set_bell(machine: &Machine) -> Result<(), Error> {
    let event = machine.event(TARGET as u32, Source::Event.vector())?;
    let memory = machine.memory();
    let patience = cycles(PATIENCE, machine.tsc_khz());

    machine.set_bell(Box::new(move || {
        let Ok(shared) = boot::shared(&memory) else {
            return;
        };
        let arrival = &shared.arrivals.of[Source::Event as usize];
        let sent = arrival.sent.load(SeqCst);
        let start = now();
        // If this fails, the guest counts the interrupt as lost.
        let _ = event.write(1);
        while arrival.acknowledged.load(SeqCst) != sent && now() - start < patience {}
        if let Some(place) = shared.cycles.get(sent as usize - 1) {
            place.store(now() - start, SeqCst);
        }
    }));
    Ok(())
}

/// Runs a piece, and returns how many halts KVM has polled through.
fn run(machine: &mut Machine, method: &IdleMethod, events: u32, seed: u32) -> Result<u64, Error> {
    let job = method.job(
        JobKind::Arrivals,
        events,
        SPREAD,
        seed.into(),
        machine.tsc_khz(),
    );
    let counts = machine.run_job(Some(&job), JOB_LIMIT)?;
    match machine.shared()?.lost.load(SeqCst) {
        0 => Ok(counts[TARGET].statistics.halt_polls),
        lost => Err(Error::Lost {
            lost,
            console: machine.console(),
        }),
    }
}

/// The time, in TSC cycles.
fn now() -> u64 {
    // SAFETY: Every 64-bit CPU has the fence and the counter.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}
