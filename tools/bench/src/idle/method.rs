// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How a vCPU is idle, and what all cases share.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use mini_guest::{IdleMode, Job, JobKind, Mechanism};
use pvirq_protocol::ioctl::Poll;
use serde_json::Value;
use vmm::{error::Error, machine::Machine};

use crate::{
    bench::Verdict,
    clock::cycles,
    row::text,
    session::{Session, JOB_LIMIT},
};

/// How long an interrupt may take before it counts as missed.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The vCPU that idles.
pub const TARGET: usize = 1;

/// What to measure, and how much.
#[derive(Clone, Debug)]
pub struct Options {
    /// KVM's own device, and pvirq's.
    pub devices: [PathBuf; 2],
    /// About how many interrupts or idle periods.
    pub events: u32,
    /// The number of pairs of pieces with a neighbour.
    pub pairs: u32,
    /// By how many percent pvirq may be worse.
    pub max_difference: Option<f64>,
}

impl Options {
    /// The device of a method.
    pub fn device(&self, method: &IdleMethod) -> &Path {
        match method {
            IdleMethod::Hlt(_) => &self.devices[0],
            IdleMethod::Idle(_) => &self.devices[1],
        }
    }

    /// Makes a machine whose vCPU idles by a method, the one that idles alone on the second CPU.
    pub fn boot(
        &self,
        session: &Session,
        method: &IdleMethod,
        count: bool,
    ) -> Result<Machine, Error> {
        let cpus = session.cpus.first_alone(2);
        let mut config = session.config(&cpus);
        config.count = count;
        let mut machine = session.boot(self.device(method), &config)?;
        match *method {
            IdleMethod::Hlt(ns) => machine.set_halt_poll(ns)?,
            IdleMethod::Idle(poll) => {
                poll.map_or(Ok(()), |poll| machine.set_poll(&poll))?;
                machine.register_or_fail(JOB_LIMIT)?;
            }
        }
        Ok(machine)
    }

    /// Finds rows that are worse than what they are compared with by more than is allowed; `excess` is 0.1 for 10 %.
    pub fn judge(&self, rows: &[Value], excess: impl Fn(&Value) -> f64) -> Verdict {
        let Some(percent) = self.max_difference else {
            return Verdict::default();
        };
        // What is not a number is not within any bounds.
        let is_within = |row: &&Value| excess(row) * 100.0 <= percent;
        let worse = rows
            .iter()
            .filter(|row| row["relative"] != Value::Null && !is_within(row));
        let line = |row: &Value| {
            let (case, device) = (text(row, "case"), text(row, "device"));
            let excess = excess(row) * 100.0;
            format!("{case} on {device}: worse by {excess:.1} %, more than {percent} %")
        };
        let lines: Vec<_> = worse.map(line).collect();
        Verdict {
            fails: !lines.is_empty(),
            lines,
        }
    }
}

/// How a guest is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleMethod {
    /// By HLT, on KVM's own device, which polls for so many ns at most.
    Hlt(u32),
    /// As its pvirq host says, which polls as it is told here, or by its defaults.
    Idle(Option<Poll>),
}

impl IdleMethod {
    /// The mechanism's name in results.
    pub fn name(self) -> &'static str {
        match self {
            IdleMethod::Hlt(_) => "hlt",
            IdleMethod::Idle(_) => "pvirq",
        }
    }

    /// Returns a job for a guest that is idle by this method.
    pub fn job(self, kind: JobKind, sends: u32, gap: Duration, seed: u64, khz: u32) -> Job {
        let (mechanism, idle_mode) = match self {
            IdleMethod::Hlt(_) => (Mechanism::X2Apic, IdleMode::Spin),
            IdleMethod::Idle(_) => (Mechanism::Pvirq, IdleMode::Idle),
        };
        Job {
            mechanism,
            idle_mode,
            sends,
            gap: cycles(gap, khz),
            seed,
            patience: cycles(PATIENCE, khz),
            ..Job::new(kind)
        }
    }
}
