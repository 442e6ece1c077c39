// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What the idle call is worth, and what it costs others: how soon interrupts are taken that come while the host polls,
//! what is left to a neighbour on the vCPU's CPU, how soon polling gives way to it, and whether any interrupt is missed.

mod arrivals;
mod contention;
mod latency;
mod neighbour;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use mini_guest::{IdleMode, Job, JobKind, Mechanism, Mode, Pattern};
use pvirq::device::{Device, KVM};
use pvirq_protocol::ioctl::Poll;
use serde::Serialize;
use vmm::{
    error::Error,
    image::Image,
    machine::{Config, Machine},
};

pub use self::{
    arrivals::Arrived,
    contention::Contention,
    latency::{Latency, LatencyOf},
    neighbour::Neighbour,
};
use super::{environment::Environment, options::Options, results::SCHEMA};
use crate::clock::cycles;

const MEMORY: usize = 16 << 20;
/// How long an interrupt may take before it counts as missed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a job may take before the guest counts as hung.
const JOB_LIMIT: Duration = Duration::from_secs(180);
/// How often something may fail on the baseline, or by the CPU's fault.
const RETRIES: u32 = 3;
/// The vCPU that idles.
const TARGET: usize = 1;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleCase {
    /// How soon the timer's interrupt is taken while the host polls.
    Timer,
    /// How soon an eventfd's is.
    Irqfd,
    /// What wake-ups cost a task that shares the CPU.
    Neighbour,
    /// How soon polling gives way to such a task.
    Contention,
    /// Whether an idle vCPU misses anything.
    Arrivals,
}

/// All cases, with their names.
pub const IDLE_CASES: [(IdleCase, &str); 5] = [
    (IdleCase::Timer, "timer"),
    (IdleCase::Irqfd, "irqfd"),
    (IdleCase::Neighbour, "neighbour"),
    (IdleCase::Contention, "contention"),
    (IdleCase::Arrivals, "arrivals"),
];

/// What was measured.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum IdleRow {
    /// Timer or irqfd, on one device.
    Latency(Latency),
    /// What is left to the neighbour, on one device.
    Neighbour(Neighbour),
    /// How soon polling gives way.
    Contention(Contention),
    /// What has arrived.
    Arrivals(Arrived),
}

impl IdleRow {
    /// By how much the row is worse than what it is compared with: 0.1 for 10 %.
    pub fn excess(&self) -> Option<f64> {
        match self {
            IdleRow::Latency(row) => row.excess(),
            IdleRow::Neighbour(row) => row.loss(),
            IdleRow::Contention(_) | IdleRow::Arrivals(_) => None,
        }
    }

    /// Interrupts that were missed.
    pub fn lost(&self) -> u64 {
        match self {
            IdleRow::Arrivals(row) => row.lost,
            _ => 0,
        }
    }
}

impl fmt::Display for IdleRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IdleRow::Latency(row) => row.fmt(f),
            IdleRow::Neighbour(row) => row.fmt(f),
            IdleRow::Contention(row) => row.fmt(f),
            IdleRow::Arrivals(row) => row.fmt(f),
        }
    }
}

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct IdleReport {
    schema: &'static str,
    /// Where it was measured.
    pub environment: Environment,
    /// The results.
    pub rows: Vec<IdleRow>,
}

impl IdleReport {
    /// Begins a report.
    pub fn new(options: &Options) -> Result<Self, Error> {
        Ok(IdleReport {
            schema: SCHEMA,
            environment: Environment::of(options, vec![2])?,
            rows: Vec::new(),
        })
    }
}

/// Measures.
pub struct Idle {
    options: Options,
    image: Image,
    /// KVM's own device, and pvirq's.
    devices: [Device; 2],
}

/// How a guest is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdleMethod {
    /// By HLT, on KVM's own device, which polls for so many ns at most.
    Hlt(u32),
    /// As its host wants it to, which polls as it is told to here, or by its defaults.
    Idle(Option<Poll>),
}

impl IdleMethod {
    /// The name in results.
    fn name(self) -> &'static str {
        match self {
            IdleMethod::Hlt(_) => "hlt",
            IdleMethod::Idle(_) => "pvirq",
        }
    }

    fn device(self) -> usize {
        match self {
            IdleMethod::Hlt(_) => 0,
            IdleMethod::Idle(_) => 1,
        }
    }
}

impl Idle {
    /// Opens the devices, of which there must be two.
    pub fn new(options: Options) -> Result<Self, Error> {
        let [plain, pvirq] = options.devices.as_slice() else {
            let missing = options.devices.first().cloned().unwrap_or_default();
            return Err(Error::Pvirq(pvirq::error::Error::NoDevice(
                match missing.to_str() {
                    Some(pvirq::device::KVM) => pvirq::device::PVIRQ.into(),
                    _ => pvirq::device::KVM.into(),
                },
            )));
        };
        let devices = [Device::open(plain)?, Device::open(pvirq)?];

        Ok(Idle {
            options,
            image: Image::mini_guest(),
            devices,
        })
    }

    /// Measures a case, with about so many events, or in so many pairs.
    pub fn measure(
        &self,
        case: IdleCase,
        events: u32,
        pairs: u32,
        note: &mut dyn FnMut(&str),
    ) -> Result<Vec<IdleRow>, Error> {
        match case {
            IdleCase::Timer => self.latency(LatencyOf::Timer, events, note),
            IdleCase::Irqfd => self.latency(LatencyOf::Irqfd, events, note),
            IdleCase::Neighbour => self.neighbour(pairs, note),
            IdleCase::Contention => self.contention(pairs, note),
            IdleCase::Arrivals => self.arrivals(events, note),
        }
    }

    /// Says whether something may be tried again, on a new machine, that has now failed so often: if its guest failed on the
    /// baseline, or if a CPU has done what no CPU should. Otherwise the error is one.
    fn forgive(
        &self,
        method: IdleMethod,
        failures: u32,
        error: Error,
        note: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let device = self.path(method);
        let baseline = device == Path::new(KVM);
        let forgiven = error.is_cpu_fault() || baseline && error.is_guest_failure();

        if !forgiven || failures > RETRIES {
            note(&format!("{}: failed", device.display()));
            return Err(error);
        }
        note(&format!(
            "{}: the guest failed, trying again: {error}",
            device.display()
        ));
        Ok(())
    }

    fn path(&self, method: IdleMethod) -> PathBuf {
        self.options.devices[method.device()].clone()
    }

    /// Where the vCPUs are: the one that idles has the second CPU for itself.
    fn cpus(&self) -> Vec<usize> {
        self.options.cpus.first_alone(2)
    }

    /// Makes a machine that waits for jobs.
    fn boot(&self, method: IdleMethod, count: bool) -> Result<Machine, Error> {
        let config = Config {
            image: &self.image,
            memory: MEMORY,
            cpus: &self.cpus(),
            mode: Mode::Jobs,
            pv_eoi: self.options.pv_eoi,
            count,
        };
        let mut machine = Machine::new(&self.devices[method.device()], &config)?;
        machine.run_job(None, JOB_LIMIT)?;
        match method {
            IdleMethod::Hlt(ns) => machine.set_halt_poll(ns)?,
            IdleMethod::Idle(poll) => {
                poll.map_or(Ok(()), |poll| machine.set_poll(&poll))?;
                machine.register_or_fail(JOB_LIMIT)?;
            }
        }
        Ok(machine)
    }
}

/// A job for a guest that is idle in some way.
fn job(method: IdleMethod, kind: JobKind, sends: u32, gap: u64, seed: u64, khz: u32) -> Job {
    let (mechanism, idle_mode) = match method {
        IdleMethod::Hlt(_) => (Mechanism::X2Apic, IdleMode::Spin),
        IdleMethod::Idle(_) => (Mechanism::Pvirq, IdleMode::Idle),
    };
    Job {
        kind,
        mechanism,
        pattern: Pattern::Unicast,
        idle_mode,
        sends,
        gap,
        seed,
        patience: cycles(PATIENCE, khz),
        window: 0,
    }
}
