// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whether an idle vCPU misses anything.

use std::{
    mem::take,
    path::Path,
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mini_guest::{JobKind, Source, STEPS};
use pvirq_protocol::{ioctl::Poll, Tally};
use serde_json::{json, Value};
use vmm::{cpus, error::Error, machine::Machine};

use super::method::{IdleMethod, Options, TARGET};
use crate::{
    bench::{After, Bench, Measured, Piece},
    ground::Ground,
    row::{add_posts, count, posts},
    session::{Session, JOB_LIMIT},
    table::Column,
};

/// Idle periods in a row with the same windows.
const PIECE: u32 = 2000;
/// The longest time after which an interrupt is sent, which may be halved so often.
const LONGEST: Duration = Duration::from_millis(4);
const HALVINGS: u32 = 6;
/// Windows, of which pieces use one after the other: so short that many interrupts come after them, so long that all come
/// while the host polls, and those of the default policy.
const WINDOWS: [(&str, Option<Poll>); 3] = [
    (
        "short",
        Some(Poll {
            guest_poll_ns: 60_000,
            ..Poll::fixed(250_000)
        }),
    ),
    ("long", Some(Poll::fixed(Poll::MAX_NS))),
    ("default", None),
];
/// The guest does what pvirq says, with windows that change.
const METHOD: IdleMethod = IdleMethod::Idle(None);
const SOURCES: [&str; Source::COUNT] = ["ipi", "timer", "eventfd"];

/// Interrupts an idle vCPU from everywhere.
pub struct Arrivals {
    options: Options,
    /// What the random numbers begin with.
    seed: u64,
}

/// What came with the same windows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrived {
    periods: u64,
    lost: u64,
    duplicates: u64,
    cpu_faults: u32,
    /// How many interrupts have ended which step of being idle, by source.
    ended: [[u64; STEPS]; Source::COUNT],
    posts: Tally,
    seconds: f64,
}

impl Arrivals {
    /// Begins random numbers with the time.
    pub fn new(options: Options) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Arrivals {
            options,
            seed: now.map_or(0, |now| now.as_secs()),
        }
    }

    fn pieces(&self) -> u32 {
        self.options
            .events
            .div_ceil(PIECE)
            .max(WINDOWS.len() as u32)
    }
}

impl Bench for Arrivals {
    type Case = &'static str;
    /// One machine, whose windows change.
    type Subject = IdleMethod;
    type Machine = (Machine, Poll);
    type Sum = [Arrived; WINDOWS.len()];

    fn cases(&self) -> Vec<&'static str> {
        vec!["arrivals"]
    }

    fn subjects(&self, _: &&'static str) -> Vec<IdleMethod> {
        vec![METHOD]
    }

    fn device<'a>(&'a self, method: &'a IdleMethod) -> &'a Path {
        self.options.device(method)
    }

    fn rounds(&self, _: &&'static str) -> u32 {
        self.pieces()
    }

    fn is_over(&self, _: u32, _: Duration, all: &[Measured<Self>]) -> bool {
        all[0].sum.iter().any(|arrived| arrived.lost != 0)
    }

    fn boot(
        &self,
        session: &Session,
        _: &&'static str,
        _: &IdleMethod,
    ) -> Result<(Machine, Poll), Error> {
        let machine = self.options.boot(session, &METHOD, false)?;
        let event = machine.event(TARGET as u32, Source::Event.vector())?;
        let cpus = session.cpus.first_alone(2);
        let together = cpus[0] == cpus[TARGET];
        let mut prefer = together;

        machine.set_bell(Box::new(move || {
            if take(&mut prefer) {
                // If it is woken on the CPU of the vCPU that idles, it would wait otherwise until that one sleeps, and
                // never find it polling.
                cpus::prefer_this_thread();
            }
            // If the count is at its maximum, the eventfd is signalled already.
            let _ = event.write(1);
        }));
        let arrivals = &machine.shared()?.arrivals;
        arrivals.set_up(&Source::ALL, HALVINGS, 0, together);
        let default = machine.poll()?;
        Ok((machine, default))
    }

    fn run_piece(&self, piece: Piece<'_, Self>) -> Result<After, Error> {
        let (machine, default) = piece.machine;
        let (pieces, periods) = (self.pieces(), self.options.events);
        // The first ones are longer by one if it does not divide.
        let sends = periods / pieces + u32::from(piece.round < periods % pieces);
        let which = piece.round as usize % WINDOWS.len();
        machine.set_poll(&WINDOWS[which].1.unwrap_or(*default))?;
        let seed = self.seed + u64::from(piece.round);
        let job = METHOD.job(JobKind::Arrivals, sends, LONGEST, seed, machine.tsc_khz());
        let start = Instant::now();
        machine.run_job(Some(&job), JOB_LIMIT)?;

        let shared = machine.shared()?;
        let arrived = &mut piece.sum[which];
        arrived.seconds += start.elapsed().as_secs_f64();
        arrived.cpu_faults += piece.failures;
        arrived.periods += shared.events.load(SeqCst);
        arrived.lost += shared.lost.load(SeqCst);
        arrived.duplicates += shared.arrivals.duplicates();
        let counts = shared.arrivals.ended.iter().flatten();
        let ended = arrived.ended.iter_mut().flatten();
        ended
            .zip(counts)
            .for_each(|(sum, count)| *sum += count.load(SeqCst));
        add_posts(&mut arrived.posts, &shared.posts.tally());
        if arrived.lost != 0 {
            (piece.note)(&machine.console());
        }
        Ok(After::Keep)
    }

    fn rows(&self, _: &Session, _: &&'static str, all: &mut [Measured<Self>]) -> Vec<Value> {
        let row = |((windows, _), arrived): (&(&str, _), &Arrived)| {
            let ended = SOURCES.iter().zip(arrived.ended).map(|(source, [guest, host, halt])| {
                json!({"source": source, "in_guest": guest, "in_host": host, "in_halt": halt})
            });
            json!({
                "bench": "idle",
                "case": "arrivals",
                "mechanism": METHOD.name(),
                "device": self.device(&METHOD),
                "windows": windows,
                "seed": self.seed,
                "periods": arrived.periods,
                "lost": arrived.lost,
                "duplicates": arrived.duplicates,
                "cpu_faults": arrived.cpu_faults,
                "ended": ended.collect::<Vec<_>>(),
                "posts": posts(&arrived.posts),
                "seconds": arrived.seconds,
            })
        };
        WINDOWS.iter().zip(&all[0].sum).map(row).collect()
    }

    fn columns(&self, _: &Ground) -> Vec<Column> {
        let steps = |source: usize| {
            Column::new(
                format!("{} ended\nguest/host/halt", SOURCES[source]),
                move |row| {
                    let ended = &row["ended"][source];
                    ["in_guest", "in_host", "in_halt"]
                        .map(|step| ended[step].to_string())
                        .join(" / ")
                },
            )
        };
        vec![
            Column::text("windows", "windows"),
            Column::number("periods", "/periods", 0),
            Column::number("missed", "/lost", 0),
            Column::number("came again", "/duplicates", 0),
            Column::number("elided", "/posts/elided", 0),
            Column::number("kicked", "/posts/kicked", 0),
            Column::number("coalesced", "/posts/coalesced", 0),
            steps(0),
            steps(1),
            steps(2),
            Column::number("seconds", "/seconds", 0),
        ]
    }

    /// Emulators deliver an interrupt twice now and then.
    fn misdelivered(&self, row: &Value) -> u64 {
        count(row, "lost")
    }
}
