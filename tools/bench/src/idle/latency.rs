// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How soon an interrupt is taken that comes while somebody polls: the host in KVM's own polling, the guest in its window,
//! the host in the idle call.

use std::{
    arch::x86_64::{_mm_lfence, _rdtsc},
    fmt,
    path::PathBuf,
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use mini_guest::{JobKind, Source, CYCLES_LEN};
use pvirq_protocol::ioctl::Poll;
use serde::Serialize;
use vmm::{boot, error::Error, machine::Machine};

use super::{job, Idle, IdleMethod, IdleRow, JOB_LIMIT, PATIENCE, TARGET};
use crate::clock::{cycles, to_ns};
use crate::summary::{median, Summary};

/// How long both poll: for longer than any interrupt takes to come.
const WINDOW: u32 = Poll::MAX_NS;
/// When the interrupt comes: within so long after so long.
const LEAST: Duration = Duration::from_micros(300);
const SPREAD: Duration = Duration::from_micros(300);
/// Interrupts in a row in the same way.
const PIECE: u32 = 50;
/// And as many for KVM to find its window.
const WARM_UP: u32 = 40;

/// What comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyOf {
    /// The interrupt of the vCPU's own timer: from its deadline to the handler.
    Timer,
    /// That of an eventfd: from the signal until the VMM sees the acknowledgement.
    Irqfd,
}

/// How soon interrupts were taken.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    bench: &'static str,
    case: &'static str,
    mechanism: &'static str,
    device: PathBuf,
    /// Who polls.
    poller: &'static str,
    /// For how long, at most.
    window_ns: u32,
    /// Interrupts.
    pub events: u64,
    /// Those of them that came while it polled.
    pub polled: u64,
    /// How long they took.
    pub ns: Option<Summary>,
    /// Compared with the first row of the case: the ratio of the percentiles, and the median of that of each piece's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative: Option<Ratios>,
}

/// How a row compares.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratios {
    pairs: usize,
    p50: f64,
    p99: f64,
    median_of_pairs_p50: f64,
}

impl Latency {
    /// By how much it is later than what it is compared with.
    pub fn excess(&self) -> Option<f64> {
        self.relative.map(|ratios| ratios.p50.max(ratios.p99) - 1.0)
    }
}

impl Ratios {
    fn of(of: (&Latency, &Subject), to: (&Latency, &Subject)) -> Option<Self> {
        let (of_ns, to_ns) = (of.0.ns.as_ref()?, to.0.ns.as_ref()?);
        let ratio = |of: u64, to: u64| of as f64 / to as f64;
        let pairs = of.1.medians.iter().zip(&to.1.medians);
        let mut ratios: Vec<_> = pairs.map(|(&of, &to)| ratio(of, to)).collect();

        Some(Ratios {
            pairs: ratios.len(),
            p50: ratio(of_ns.p50, to_ns.p50),
            p99: ratio(of_ns.p99, to_ns.p99),
            median_of_pairs_p50: median(&mut ratios)?,
        })
    }
}

/// A way to be idle, and what was measured of it.
struct Subject {
    method: IdleMethod,
    machine: Machine,
    /// Whether KVM has found its window.
    is_warm: bool,
    events: u64,
    polled: u64,
    ns: Vec<u64>,
    medians: Vec<u64>,
}

impl Idle {
    /// Measures how soon interrupts are taken, in pairs of pieces.
    pub(super) fn latency(
        &self,
        of: LatencyOf,
        events: u32,
        note: &mut dyn FnMut(&str),
    ) -> Result<Vec<IdleRow>, Error> {
        let in_guest = Poll {
            guest_poll_ns: WINDOW,
            ..Poll::fixed(0)
        };
        let ways = [
            IdleMethod::Hlt(WINDOW),
            IdleMethod::Idle(Some(in_guest)),
            IdleMethod::Idle(Some(Poll::fixed(WINDOW))),
        ];
        let mut subjects = Vec::new();
        for method in ways {
            subjects.push(Subject {
                method,
                machine: self.boot(method, true)?,
                is_warm: false,
                events: 0,
                polled: 0,
                ns: Vec::new(),
                medians: Vec::new(),
            });
        }
        let pieces = events.div_ceil(PIECE).max(2);
        for piece in 0..pieces {
            if piece % 2 != 0 {
                subjects.reverse();
            }
            for subject in &mut subjects {
                let mut failures = 0;
                while let Err(error) = subject.measure(of, piece) {
                    failures += 1;
                    self.forgive(subject.method, failures, error, note)?;
                    subject.machine = self.boot(subject.method, true)?;
                    subject.is_warm = false;
                }
            }
            if piece % 2 != 0 {
                subjects.reverse();
            }
        }
        note(&format!("{of:?}: {pieces} pieces each"));
        let mut rows: Vec<_> = subjects
            .iter_mut()
            .map(|subject| self.latency_row(of, subject))
            .collect();
        if let Some((first, others)) = rows.split_first_mut() {
            for (row, subject) in others.iter_mut().zip(&subjects[1..]) {
                row.relative = Ratios::of((row, subject), (first, &subjects[0]));
            }
        }
        Ok(rows.into_iter().map(IdleRow::Latency).collect())
    }

    fn latency_row(&self, of: LatencyOf, subject: &mut Subject) -> Latency {
        Latency {
            bench: "idle",
            case: match of {
                LatencyOf::Timer => "timer",
                LatencyOf::Irqfd => "irqfd",
            },
            mechanism: subject.method.name(),
            device: self.path(subject.method),
            poller: subject.poller(),
            window_ns: WINDOW,
            events: subject.events,
            polled: subject.polled,
            ns: Summary::of(&mut subject.ns),
            relative: None,
        }
    }
}

impl Subject {
    /// Who polls.
    fn poller(&self) -> &'static str {
        match self.method {
            IdleMethod::Hlt(_) => "kvm",
            IdleMethod::Idle(Some(poll)) if poll.host_poll_ns == 0 => "guest",
            IdleMethod::Idle(_) => "idle-call",
        }
    }

    fn set_up(&self, of: LatencyOf) -> Result<(), Error> {
        let source = match of {
            LatencyOf::Timer => Source::Timer,
            LatencyOf::Irqfd => Source::Event,
        };
        let least = cycles(LEAST, self.machine.tsc_khz());
        self.machine
            .shared()?
            .arrivals
            .set_up(&[source], 0, least, false);
        if of == LatencyOf::Irqfd {
            self.set_bell()?;
        }
        Ok(())
    }

    /// Signals the eventfd when the guest wants it, and notes how long that takes.
    fn set_bell(&self) -> Result<(), Error> {
        let event = self.machine.event(TARGET as u32, Source::Event.vector())?;
        let memory = self.machine.memory();
        let patience = cycles(PATIENCE, self.machine.tsc_khz());

        self.machine.set_bell(Box::new(move || {
            let Ok(shared) = boot::shared(&memory) else {
                return;
            };
            let arrival = &shared.arrivals.of[Source::Event as usize];
            let sent = arrival.sent.load(SeqCst);
            let start = now();
            // If nothing comes of it, the guest finds out.
            let _ = event.write(1);
            while arrival.acknowledged.load(SeqCst) != sent && now() - start < patience {}
            if let Some(place) = shared.cycles.get(sent as usize - 1) {
                place.store(now() - start, SeqCst);
            }
        }));
        Ok(())
    }

    /// Runs a piece, and returns how many halts KVM has polled through.
    fn piece(&mut self, events: u32, seed: u32) -> Result<u64, Error> {
        let khz = self.machine.tsc_khz();
        let job = job(
            self.method,
            JobKind::Arrivals,
            events,
            cycles(SPREAD, khz),
            seed.into(),
            khz,
        );
        let counts = self.machine.run_job(Some(&job), JOB_LIMIT)?;
        let lost = self.machine.shared()?.lost.load(SeqCst);
        if lost != 0 {
            return Err(Error::Lost {
                lost,
                console: self.machine.console(),
            });
        }
        Ok(counts[TARGET].statistics.halt_polls)
    }

    fn measure(&mut self, of: LatencyOf, piece: u32) -> Result<(), Error> {
        if !self.is_warm {
            self.set_up(of)?;
            self.piece(WARM_UP, 0)?;
            self.is_warm = true;
        }
        let halt_polls = self.piece(PIECE, piece)?;
        let khz = self.machine.tsc_khz();
        let shared = self.machine.shared()?;
        let events = shared.events.load(SeqCst);
        let places = &shared.cycles[..CYCLES_LEN.min(events as usize)];
        let mut ns: Vec<_> = places
            .iter()
            .map(|cycles| to_ns(cycles.load(SeqCst), khz))
            .collect();
        let [in_guest, in_host, _] = shared
            .arrivals
            .ended
            .iter()
            .map(|ended| ended.each_ref().map(|count| count.load(SeqCst)))
            .fold([0; 3], |sum, counts| {
                [0, 1, 2].map(|step| sum[step] + counts[step])
            });

        self.events += events;
        self.polled += match self.method {
            IdleMethod::Hlt(_) => halt_polls,
            IdleMethod::Idle(_) => in_guest + in_host,
        };
        self.medians.extend(Summary::of(&mut ns).map(|ns| ns.p50));
        self.ns.extend(ns);
        Ok(())
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

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency {
            case,
            poller,
            device,
            events,
            polled,
            ..
        } = self;
        write!(
            f,
            "{case} on {}: {events}, of which {polled} while polling ({poller})",
            device.display()
        )?;
        if let Some(ns) = &self.ns {
            write!(
                f,
                "; ns: p50 {}, p99 {}, mean {:.0}",
                ns.p50, ns.p99, ns.mean
            )?;
        }
        if let Some(ratios) = &self.relative {
            write!(
                f,
                "; ratio: p50 {:.3}, p99 {:.3}, median of {} pairs' p50 {:.3}",
                ratios.p50, ratios.p99, ratios.pairs, ratios.median_of_pairs_p50
            )?;
        }
        Ok(())
    }
}
