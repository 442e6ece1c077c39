// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What all benchmarks have in common on the command line.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{ensure, Context, Result};
use pvirq::device::{self, Device, KVM};
use pvirq_bench::{bench::AnyBench, report::Report, results, session::Session};
use serde_json::Value;
use vmm::cpus::CpuList;

use crate::progress::Display;

/// The exit status if results are not within bounds.
const STATUS_DIFFERENT: u8 = 3;

/// What all benchmarks take.
#[derive(clap::Args)]
pub struct Output {
    /// CPUs for the vCPUs: the sender has the first for itself, the others share the rest [default: all]
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,

    /// Writes the results to a file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Adds them to those that the file has, if they are from this machine
    #[arg(long, requires = "json")]
    append: bool,
}

/// What benchmarks take that compare devices.
#[derive(clap::Args)]
pub struct Devices {
    /// A device to measure; the first is what the others are compared with [default: /dev/kvm, and /dev/pvirq if there]
    #[arg(long = "device", value_name = "PATH")]
    devices: Vec<PathBuf>,
}

impl Devices {
    /// The devices to measure.
    pub fn paths(&self) -> Vec<PathBuf> {
        match self.devices.as_slice() {
            [] => device::present(),
            some => some.to_vec(),
        }
    }
}

/// Whether something was asked for by its name, or nothing was.
pub fn is_wanted(wanted: &Option<String>, name: &str) -> bool {
    wanted.as_ref().is_none_or(|wanted| wanted == name)
}

/// Reads a percentage.
pub fn percentage(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..=1000.0).contains(&percent) => Ok(percent),
        _ => Err("not a percentage".into()),
    }
}

impl Output {
    /// The machine's CPUs, for guests that use KVM's paravirtual EOI or not.
    pub fn session(&self, pv_eoi: bool) -> Result<Session> {
        let cpus = self.cpus.clone().map_or_else(CpuList::allowed, Ok)?;
        Ok(Session::new(cpus, pv_eoi))
    }

    /// Measures, shows the results, writes and judges them.
    pub fn measure(&self, mut session: Session, benches: &[Box<dyn AnyBench>]) -> Result<ExitCode> {
        let sizes = benches.iter().map(|bench| bench.size());
        let (cases, pieces) = sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
        ensure!(cases != 0, "no case is like that");
        let mut report = Report::new(&session, benches)?;
        let mut progress = Display::new(cases, pieces);
        let (mut misdelivered, mut fails) = (0, false);

        progress.print(&report.environment);
        for bench in benches {
            let outcome = bench.measure(&mut session, &mut progress)?;
            progress.print(&outcome.table);
            let timer = |row: &Value| row["timer_exits_per_event"].is_object();
            if outcome.rows.iter().any(timer) {
                progress.print(&"Exits by the host's timer ticks are not in the table.");
            }
            for line in &outcome.verdict.lines {
                progress.print(line);
            }
            fails |= outcome.verdict.fails;
            misdelivered += outcome.misdelivered;
            report.rows.extend(outcome.rows);
        }
        progress.finish();

        report.environment.failures = session.failures;
        let (failures, runs) = (
            session.failures.baseline_failures,
            session.failures.baseline_runs,
        );
        if runs != 0 {
            println!("Guests failed {failures} of {runs} times on {KVM}.");
        }
        match session.failures.cpu_faults {
            0 => {}
            faults => println!(
                "CPUs did what none should {faults} times; see Documentation/smp-guests.rst."
            ),
        }
        self.write(&report)?;
        ensure!(
            misdelivered == 0,
            "{misdelivered} interrupts were lost or came twice"
        );
        Ok(match fails {
            true => ExitCode::from(STATUS_DIFFERENT),
            false => ExitCode::SUCCESS,
        })
    }

    /// Writes results, if that is wanted.
    fn write(&self, report: &Report) -> Result<()> {
        let Some(path) = &self.json else {
            return Ok(());
        };
        let written = match self.append {
            true => results::append(report, path),
            false => results::write(report, path),
        };
        written.with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Whether KVM's own device has the paravirtual EOI.
pub fn has_pv_eoi() -> Result<bool> {
    Ok(Device::open(KVM.as_ref())?.features()?.pv_eoi())
}
