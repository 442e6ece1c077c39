// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What all benchmarks share: where their machines run, how one is made, and what is done if a guest fails.

use std::{fmt, path::Path, time::Duration};

use mini_guest::Mode;
use pvirq::device::{Device, KVM};
use serde::Serialize;
use vmm::{
    cpus::CpuList,
    error::Error,
    image::Image,
    machine::{Config, Machine},
};

use crate::ground::Ground;

/// How long an interrupt may take before it counts as lost.
///
/// It is long because of targets that share a CPU. If the host is a virtual machine itself, and its own host does
/// something else for a second, the scheduler bills the target that seemed to run, which then waits until each of the
/// others has had a second as well.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a job may take before the guest counts as hung. Only a sender that waits for two interrupts that are lost
/// takes so long.
pub const JOB_LIMIT: Duration = Duration::from_secs(180);
/// How long a halted target is given to fall asleep before it is interrupted.
pub const GAP: Duration = Duration::from_micros(100);
/// How often one piece may fail on the baseline, or by a CPU's fault.
const RETRIES: u32 = 3;
const MEMORY: usize = 16 << 20;

/// How guests fared.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Failures {
    /// How often a guest was given something to do on KVM's own device.
    pub baseline_runs: u32,
    /// How often it failed at that, and was made to do it again.
    pub baseline_failures: u32,
    /// How often a CPU did what no CPU should ([`Error::is_cpu_fault`]), on any device, and the guest was made to do it
    /// again.
    pub cpu_faults: u32,
}

/// Where benchmarks run.
pub struct Session {
    /// The CPUs to use.
    pub cpus: CpuList,
    /// Whether guests use KVM's paravirtual EOI.
    pub pv_eoi: bool,
    /// What runs the CPUs.
    pub ground: Ground,
    /// How guests fared.
    pub failures: Failures,
    image: Image,
}

impl Session {
    /// Uses these CPUs of this machine.
    pub fn new(cpus: CpuList, pv_eoi: bool) -> Self {
        Session {
            cpus,
            pv_eoi,
            ground: Ground::detect(),
            failures: Failures::default(),
            image: Image::mini_guest(),
        }
    }

    /// Describes a machine with vCPUs on these CPUs, whose exits are counted.
    pub fn config<'a>(&'a self, cpus: &'a [usize]) -> Config<'a> {
        Config {
            image: &self.image,
            memory: MEMORY,
            cpus,
            mode: Mode::Jobs,
            pv_eoi: self.pv_eoi,
            count: true,
        }
    }

    /// Makes a machine that waits for jobs.
    pub fn boot(&self, device: &Path, config: &Config<'_>) -> Result<Machine, Error> {
        let mut machine = Machine::new(&Device::open(device)?, config)?;
        machine.run_job(None, JOB_LIMIT)?;
        Ok(machine)
    }

    /// Calls `attempt` until it succeeds: again if the guest failed on the baseline, or if a CPU did what no CPU should.
    ///
    /// `attempt` is told how often it has failed. Returns its result, and the number of the CPUs' faults.
    pub fn retry<T>(
        &mut self,
        is_baseline: bool,
        what: &dyn fmt::Display,
        note: &mut dyn FnMut(&str),
        mut attempt: impl FnMut(&Self, u32, &mut dyn FnMut(&str)) -> Result<T, Error>,
    ) -> Result<(T, u32), Error> {
        let baseline = u32::from(is_baseline);
        let (mut failures, mut faults) = (0, 0);
        loop {
            self.failures.baseline_runs += baseline;
            let error = match attempt(self, failures, note) {
                Ok(done) => return Ok((done, faults)),
                Err(error) => error,
            };
            let is_fault = error.is_cpu_fault();
            let again = is_fault || is_baseline && error.is_guest_failure();
            if !again || failures == RETRIES {
                note(&format!("{what}: failed"));
                return Err(error);
            }
            failures += 1;
            faults += u32::from(is_fault);
            self.failures.cpu_faults += u32::from(is_fault);
            self.failures.baseline_failures += baseline;
            note(&format!("{what}: the guest failed, trying again: {error}"));
        }
    }
}

/// Whether a device is the one whose guests' failures are not pvirq's.
pub fn is_baseline(device: &Path) -> bool {
    device == Path::new(KVM)
}

/// The number of vCPUs on the CPU that has the most of them.
pub fn overcommit(cpus: &[usize]) -> usize {
    let vcpus_on = |cpu| cpus.iter().filter(|&other| other == cpu).count();
    cpus.iter().map(vcpus_on).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new("0".parse().unwrap(), true)
    }

    fn masked() -> Error {
        Error::Ended {
            status: mini_guest::STATUS_MASKED,
            console: String::new(),
        }
    }

    #[test]
    fn a_cpus_fault_is_forgiven_three_times() {
        let (mut session, mut notes) = (session(), 0);
        let mut note = |_: &str| notes += 1;
        let done = session.retry(false, &"x", &mut note, |_, failures, _| match failures {
            3 => Ok("done"),
            _ => Err(masked()),
        });
        assert_eq!(done.unwrap(), ("done", 3));
        let failed = session.retry(false, &"x", &mut note, |_, _, _| Err::<(), _>(masked()));
        assert!(failed.is_err());
        assert_eq!((notes, session.failures.cpu_faults), (7, 6));
        assert_eq!(session.failures.baseline_runs, 0);
    }

    #[test]
    fn a_guest_may_fail_on_the_baseline_alone() {
        let mut session = session();
        let attempt = |_: &Session, failures, _: &mut dyn FnMut(&str)| match failures {
            1 => Ok(()),
            _ => Err(Error::Ended {
                status: 1,
                console: String::new(),
            }),
        };
        assert!(session.retry(false, &"x", &mut |_| {}, attempt).is_err());
        assert_eq!(
            session.retry(true, &"x", &mut |_| {}, attempt).unwrap(),
            ((), 0)
        );
        let failures = session.failures;
        assert_eq!((failures.baseline_runs, failures.baseline_failures), (2, 1));
    }

    #[test]
    fn the_fullest_cpu_counts() {
        assert_eq!(overcommit(&[0, 1, 1, 2, 1]), 3);
        assert_eq!(overcommit(&[]), 0);
    }
}
