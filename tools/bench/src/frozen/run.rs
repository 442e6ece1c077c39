// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Measuring interrupts while another sender is stopped.

use std::{path::Path, sync::atomic::Ordering::SeqCst, thread, time::Duration};

use mini_guest::{IdleMode, Job, JobKind, Mechanism, Random, Shared, CYCLES_LEN, IPI_VECTOR};
use pvirq::device::PVIRQ;
use pvirq_protocol::{ioctl::Poll, Vector};
use serde_json::{json, Value};
use vmm::{error::Error, machine::Machine};

use super::{
    case::{FrozenCase, OtherSender},
    process::Device as DeviceProcess,
    vcpu,
};
use crate::{
    bench::{After, Bench, Measured, Piece},
    clock::cycles,
    ground::Ground,
    row::set,
    session::{Session, JOB_LIMIT},
    summary::{median_of_ratios, Summary},
    table::Column,
};

const MEMORY: usize = 4 << 20;
/// How long an interrupt may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest that a sender or the target does the same.
const GAP: Duration = Duration::from_micros(200);
/// How often a sender is stopped in a piece.
const STOPS: u32 = 25;
/// The longest that a device's process posts before it is killed, and that there is none.
const ALIVE: Duration = Duration::from_micros(500);
const DEAD: Duration = Duration::from_millis(2);
/// The vCPU that is interrupted.
const TARGET: usize = 1;

/// Stops senders, and measures the interrupts of another.
pub struct Frozen {
    /// The cases.
    pub cases: Vec<FrozenCase>,
    /// How often a sender is stopped in each way.
    pub stops: u32,
}

/// What pieces add up to.
#[derive(Default)]
pub struct Sum {
    stops: u64,
    left: u64,
    lost: u64,
    events: u64,
    cycles: Vec<u64>,
    medians: Vec<f64>,
}

impl Sum {
    fn add(&mut self, events: u64, cycles: impl Iterator<Item = u64>) {
        let mut piece: Vec<_> = cycles.collect();
        self.events += events;
        let median = Summary::of(&mut piece).map(|summary| summary.p50 as f64);
        self.medians.extend(median);
        self.cycles.extend(piece);
    }

    fn longest(&self) -> u64 {
        self.cycles.iter().copied().max().unwrap_or(0)
    }
}

impl Bench for Frozen {
    type Case = FrozenCase;
    type Subject = (Mechanism, OtherSender);
    type Machine = Machine;
    type Sum = Sum;

    fn cases(&self) -> Vec<FrozenCase> {
        self.cases.clone()
    }

    fn subjects(&self, case: &FrozenCase) -> Vec<(Mechanism, OtherSender)> {
        case.cells()
    }

    fn device<'a>(&'a self, _: &'a (Mechanism, OtherSender)) -> &'a Path {
        Path::new(PVIRQ)
    }

    /// All share one.
    fn machine(&self, _: &(Mechanism, OtherSender), _: usize) -> usize {
        0
    }

    fn rounds(&self, _: &FrozenCase) -> u32 {
        self.stops.div_ceil(STOPS)
    }

    fn boot(
        &self,
        session: &Session,
        &case: &FrozenCase,
        _: &(Mechanism, OtherSender),
    ) -> Result<Machine, Error> {
        let cpus = place(session, case);
        let mut config = session.config(&cpus);
        (config.memory, config.count) = (MEMORY, false);
        let mut machine = session.boot(Path::new(PVIRQ), &config)?;
        machine.set_poll(&Poll::fixed(GAP.as_nanos() as u32))?;
        machine.register_or_fail(JOB_LIMIT)?;
        Ok(machine)
    }

    fn run_piece(&self, piece: Piece<'_, Self>) -> Result<After, Error> {
        let (mechanism, other) = *piece.subject;
        let (machine, sum) = (piece.machine, piece.sum);
        let stops = STOPS.min(self.stops - piece.round * STOPS);
        let (seed, khz) = (piece.round, machine.tsc_khz());
        let job = Job {
            mechanism,
            idle_mode: IdleMode::Mixed,
            gap: cycles(GAP, khz),
            seed: seed.into(),
            patience: cycles(PATIENCE, khz),
            ..Job::new(JobKind::Frozen)
        };
        let vector = Vector::new(IPI_VECTOR)
            .map_err(|_| Error::Memory("the interrupt's vector is reserved".into()))?;
        let process = match other {
            OtherSender::Killed => Some(DeviceProcess::new(machine, TARGET, vector)?),
            _ => None,
        };
        if let OtherSender::Stopped(_) = other {
            vcpu::set_bell(machine);
        }
        let (_, left) = machine.run_job_with(&job, JOB_LIMIT, |shared| {
            let left = match other {
                OtherSender::Stopped(at) => vcpu::stop(shared, at, stops).map(|()| 0),
                _ => kill(shared, process.as_ref(), stops, seed),
            };
            shared.frozen.over.store(1, SeqCst);
            left
        })?;
        if let Some(process) = process {
            process.unbind(machine)?;
        }
        let left = left?;
        let shared = machine.shared()?;
        let (events, lost) = (shared.events.load(SeqCst), shared.lost.load(SeqCst));
        let cycles = shared.cycles[..CYCLES_LEN.min(events as usize)].iter();
        sum.add(events, cycles.map(|cycles| cycles.load(SeqCst)));
        sum.stops += u64::from(stops);
        sum.left += left;
        sum.lost += lost;
        if lost != 0 {
            (piece.note)(&machine.console());
            return Ok(After::Renew);
        }
        Ok(After::Keep)
    }

    fn rows(&self, _: &Session, case: &FrozenCase, all: &mut [Measured<Self>]) -> Vec<Value> {
        let summaries: Vec<_> = all
            .iter_mut()
            .map(|one| Summary::of(&mut one.sum.cycles))
            .collect();
        let rows = all
            .iter()
            .zip(&summaries)
            .enumerate()
            .map(|(index, (one, cycles))| {
                let ((mechanism, other), sum) = (one.subject, &one.sum);
                let mut row = json!({
                    "bench": "frozen",
                    "case": case.name(),
                    "mechanism": match mechanism {
                        Mechanism::Pvirq => "pvirq",
                        _ => "x2apic",
                    },
                    "stopped": other.name(),
                    "device": PVIRQ,
                    "vcpus": case.vcpus(),
                    "stops": match other {
                        OtherSender::None => 0,
                        _ => sum.stops,
                    },
                    "left_pending": sum.left,
                    "events": sum.events,
                    "lost": sum.lost,
                    "cycles_per_event": cycles,
                    "longest": sum.longest(),
                    "cpu_faults": one.cpu_faults,
                });
                let compared = cycles.zip(summaries[0]).filter(|_| index != 0);
                let relative = compared.map(|(cycles, first)| {
                    let ratio = |of: u64, to: u64| of as f64 / to as f64;
                    let (pairs, median) = median_of_ratios(&sum.medians, &all[0].sum.medians);
                    json!({
                        "pairs": pairs,
                        "median_of_pairs": median,
                        "p99": ratio(cycles.p99, first.p99),
                        "longest": ratio(sum.longest(), all[0].sum.longest()),
                    })
                });
                set(&mut row, "relative", relative);
                row
            });
        rows.collect()
    }

    fn columns(&self, ground: &Ground) -> Vec<Column> {
        let unit = ground.unit();
        vec![
            Column::text("case", "case"),
            Column::text("stopped", "stopped"),
            Column::text("mechanism", "mechanism"),
            Column::number("stops", "/stops", 0),
            Column::number("left\na bit", "/left_pending", 0),
            Column::number("interrupts", "/events", 0),
            Column::number("lost", "/lost", 0),
            Column::number(format!("{unit}\n(p50)"), "/cycles_per_event/p50", 0),
            Column::number(format!("{unit}\n(p99)"), "/cycles_per_event/p99", 0),
            Column::number(format!("{unit}\n(longest)"), "/longest", 0),
            Column::number("ratio\n(pairs)", "/relative/median_of_pairs", 2),
            Column::number("ratio\n(p99)", "/relative/p99", 2),
            Column::number("ratio\n(longest)", "/relative/longest", 2),
        ]
    }

    fn vcpus(&self) -> Vec<usize> {
        FrozenCase::ALL.map(FrozenCase::vcpus).into()
    }
}

/// The CPU of each vCPU. Two have run in parallel under TCG for thousands of stops; one of three ended in a shutdown.
fn place(session: &Session, case: FrozenCase) -> Vec<usize> {
    let cpus = session.cpus.first_alone(case.vcpus());
    match case {
        FrozenCase::Process => cpus,
        FrozenCase::Vcpu => session.ground.clone().place(cpus),
    }
}

/// Kills processes while they post, or only waits as long as that, and returns how many have left a bit pending.
fn kill(
    shared: &Shared,
    process: Option<&DeviceProcess>,
    stops: u32,
    seed: u32,
) -> Result<u64, Error> {
    let mut random = Random::new(seed.into());
    let mut left = 0;

    shared.frozen.measured.store(1, SeqCst);
    for _ in 0..stops {
        let alive = Duration::from_nanos(random.below(ALIVE.as_nanos() as u64));
        match process {
            None => thread::sleep(alive),
            Some(process) => left += u64::from(process.run_and_kill(alive)?),
        }
        thread::sleep(Duration::from_nanos(random.below(DEAD.as_nanos() as u64)));
        if shared.frozen.over.load(SeqCst) != 0 {
            break;
        }
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_compared_with_native_interrupts() {
        let case = FrozenCase::Process;
        let measured = |(subject, factor): (_, u64)| {
            let mut sum = Sum::default();
            sum.add(3, [10, 20, 30].into_iter().map(|cycles| cycles * factor));
            Measured {
                subject,
                sum,
                cpu_faults: 0,
            }
        };
        let mut all: Vec<_> = case.cells().into_iter().zip(1..).map(measured).collect();
        let frozen = Frozen {
            cases: vec![case],
            stops: 50,
        };
        let session = Session::new("0".parse().unwrap(), true);
        let rows = frozen.rows(&session, &case, &mut all);
        assert_eq!(
            (&rows[0]["mechanism"], &rows[0]["stopped"]),
            (&json!("x2apic"), &json!("killed"))
        );
        assert_eq!(rows[0].get("relative"), None);
        let expected = json!({"pairs": 1, "median_of_pairs": 4.0, "p99": 4.0, "longest": 4.0});
        assert_eq!(rows[3]["relative"], expected);
        assert_eq!(rows[3]["longest"], 120);
    }
}
