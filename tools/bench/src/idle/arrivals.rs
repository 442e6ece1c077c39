// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Whether an idle vCPU misses anything.

use std::{
    fmt,
    mem::take,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mini_guest::{JobKind, Source, STEPS};
use pvirq_protocol::ioctl::Poll;
use serde::Serialize;
use vmm::{cpus, error::Error, machine::Machine};

use super::{job, Idle, IdleMethod, IdleRow, JOB_LIMIT, TARGET};
use crate::clock::cycles;

/// Idle periods in a row with the same windows.
const PIECE: u32 = 2000;
/// The longest time after which an interrupt is sent, which may be halved so often.
const LONGEST: Duration = Duration::from_millis(4);
const HALVINGS: u32 = 6;
/// Windows, of which pieces use one after the other: so short that many interrupts come after them, so long that all come
/// while the host polls, and those of the default policy.
const SHORT: Poll = Poll {
    guest_poll_ns: 60_000,
    ..Poll::fixed(250_000)
};
const LONG: Poll = Poll::fixed(Poll::MAX_NS);
/// The guest uses what pvirq offers, with windows that change.
const WAY: IdleMethod = IdleMethod::Idle(None);
/// How many pieces pass between two notes.
const NOTED: u32 = 10;
const SOURCES: [&str; Source::COUNT] = ["ipi", "timer", "eventfd"];

/// What has arrived at an idle vCPU.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Arrived {
    bench: &'static str,
    case: &'static str,
    mechanism: &'static str,
    device: PathBuf,
    /// How long is polled.
    windows: &'static str,
    /// What the random numbers begin with.
    seed: u64,
    /// Idle periods.
    pub periods: u64,
    /// Interrupts that have not arrived.
    pub lost: u64,
    /// Interrupts that came again.
    pub duplicates: u64,
    /// How often the guest was started again because a CPU did what none should.
    pub cpu_faults: u32,
    /// How many interrupts have ended which step of being idle, by source.
    pub ended: [Ended; Source::COUNT],
    /// What became of posts.
    pub posts: super::super::report::Posts,
    seconds: f64,
}

/// How many interrupts from a source have ended each step of being idle.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Ended {
    /// Where they came from.
    pub source: &'static str,
    /// The vCPU polled its descriptor.
    pub in_guest: u64,
    /// Its host polled.
    pub in_host: u64,
    /// It was halted.
    pub in_halt: u64,
}

impl Ended {
    fn add(&mut self, counts: &[AtomicU64; STEPS]) {
        let [guest, host, halt] = counts.each_ref().map(|count| count.load(SeqCst));
        self.in_guest += guest;
        self.in_host += host;
        self.in_halt += halt;
    }
}

impl Idle {
    /// Idles for so many periods, with different windows in turn.
    pub(super) fn arrivals(
        &self,
        periods: u32,
        note: &mut dyn FnMut(&str),
    ) -> Result<Vec<IdleRow>, Error> {
        let mut machine = self.arrivals_machine()?;
        let policies = [
            ("short", SHORT),
            ("long", LONG),
            ("default", machine.poll()?),
        ];
        let start = SystemTime::now().duration_since(UNIX_EPOCH);
        let seed = start.map_or(0, |start| start.as_secs());
        let mut rows = policies.map(|(windows, _)| Arrived {
            bench: "idle",
            case: "arrivals",
            mechanism: WAY.name(),
            device: self.path(WAY),
            windows,
            seed,
            ended: SOURCES.map(|source| Ended {
                source,
                ..Default::default()
            }),
            ..Default::default()
        });

        let pieces = periods.div_ceil(PIECE).max(policies.len() as u32);
        for piece in 0..pieces {
            // The first ones are longer by one if it does not divide.
            let sends = periods / pieces + u32::from(piece < periods % pieces);
            let which = piece as usize % policies.len();
            let mut failures = 0;
            let start = Instant::now();
            while let Err(error) = idle_on(
                &mut machine,
                &policies[which].1,
                sends,
                seed + u64::from(piece),
            ) {
                failures += 1;
                self.forgive(WAY, failures, error, note)?;
                machine = self.arrivals_machine()?;
            }

            let shared = machine.shared()?;
            let row = &mut rows[which];
            row.seconds += start.elapsed().as_secs_f64();
            row.cpu_faults += failures;
            row.periods += shared.events.load(SeqCst);
            row.lost += shared.lost.load(SeqCst);
            row.duplicates += shared.arrivals.duplicates();
            let ended = row.ended.iter_mut().zip(&shared.arrivals.ended);
            ended.for_each(|(ended, counts)| ended.add(counts));
            row.posts.add(&shared.posts.tally());
            if row.lost != 0 {
                note(&machine.console());
                break;
            }
            if piece % NOTED == NOTED - 1 {
                let periods: u64 = rows.iter().map(|row| row.periods).sum();
                note(&format!("arrivals: {periods} periods"));
            }
        }
        Ok(rows.map(IdleRow::Arrivals).into())
    }

    fn arrivals_machine(&self) -> Result<Machine, Error> {
        let machine = self.boot(WAY, false)?;
        let event = machine.event(TARGET as u32, Source::Event.vector())?;
        let cpus = self.cpus();
        let together = cpus[0] == cpus[TARGET];
        let mut prefer = together;

        machine.set_bell(Box::new(move || {
            if take(&mut prefer) {
                // If it is woken on the CPU of the vCPU that idles, it would wait otherwise until that one sleeps, and
                // never find it polling.
                cpus::prefer_this_thread();
            }
            // It is as good as signalled if the count is at its end.
            let _ = event.write(1);
        }));
        let arrivals = &machine.shared()?.arrivals;
        arrivals.set_up(&Source::ALL, HALVINGS, 0, together);
        Ok(machine)
    }
}

/// Has the guest idle for so many periods.
fn idle_on(machine: &mut Machine, poll: &Poll, periods: u32, seed: u64) -> Result<(), Error> {
    let khz = machine.tsc_khz();
    let longest = cycles(LONGEST, khz);

    machine.set_poll(poll)?;
    machine.run_job(
        Some(&job(WAY, JobKind::Arrivals, periods, longest, seed, khz)),
        JOB_LIMIT,
    )?;
    Ok(())
}

impl fmt::Display for Arrived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Arrived {
            windows,
            periods,
            lost,
            duplicates,
            posts,
            ..
        } = self;
        writeln!(
            f,
            "arrivals ({windows} windows): {periods} idle periods in {:.0} s, {lost} interrupts missed, {duplicates} came again; \
             posts: {} elided, {} kicked, {} coalesced",
            self.seconds, posts.elided, posts.kicked, posts.coalesced
        )?;
        write!(
            f,
            "  ended by       in the guest's window   in the host's      in a halt"
        )?;
        for ended in &self.ended {
            let Ended {
                source,
                in_guest,
                in_host,
                in_halt,
            } = ended;
            write!(
                f,
                "\n  {source:10} {in_guest:>25} {in_host:>15} {in_halt:>14}"
            )?;
        }
        Ok(())
    }
}
