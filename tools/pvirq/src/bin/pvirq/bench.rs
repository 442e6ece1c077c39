// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench`: measures.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{ensure, Context, Result};
use clap::Subcommand;
use mini_guest::{Rest, MAX_VCPUS};
use pvirq::{
    bench::{self, Case, Options, Report, Session},
    cpus::CpuList,
    device::{self, Device},
    machine,
};

use crate::progress::Display;

/// The exit status if devices differ by more than is allowed.
const STATUS_DIFFERENT: u8 = 3;

const EVENTS: u32 = 600;
const EVENTS_FULL: u32 = 10_000;

/// Measures what interrupts and exits cost
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    Ipi(IpiArgs),
    Exit(ExitArgs),
}

/// What all benchmarks take.
#[derive(clap::Args)]
struct Common {
    /// A device to measure; the first is what the others are compared with [default: /dev/kvm, and /dev/pvirq if there]
    #[arg(long = "device", value_name = "PATH")]
    devices: Vec<PathBuf>,

    /// CPUs for the vCPUs: the sender has the first for itself, the others share the rest [default: all]
    #[arg(long, value_name = "LIST")]
    cpus: Option<CpuList>,

    /// Writes the results to a file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures interrupts from one vCPU to others
///
/// An event is one interrupt to one target. Exits are those of the sender, and of all targets together, per event.
#[derive(clap::Args)]
struct IpiArgs {
    #[command(flatten)]
    common: Common,

    /// Events for each case and device [default: 600, 10000 with --full]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    events: Option<u32>,

    /// More cases, and more events
    #[arg(long)]
    full: bool,

    /// Only this kind of destination
    #[arg(long, value_enum)]
    case: Option<Pattern>,

    /// Only this mechanism
    #[arg(long, value_enum)]
    mechanism: Option<Mechanism>,

    /// Only targets that do this
    #[arg(long, value_enum)]
    target: Option<Target>,

    /// Only machines with so many vCPUs [default: 2 (unicast) and 4, 8, 16 (broadcast); more with --full]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(2..=MAX_VCPUS as i64))]
    vcpus: Vec<u8>,

    /// How the guest ends interrupts
    #[arg(long, value_enum, default_value_t = Eoi::Pv)]
    eoi: Eoi,

    /// Fails if a device's exits per event differ from the first one's by more than this, timer ticks aside
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    max_difference: Option<f64>,
}

/// Measures exits to user space, by writes to a port
#[derive(clap::Args)]
struct ExitArgs {
    #[command(flatten)]
    common: Common,

    /// Events for each device
    #[arg(long, default_value_t = 4000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    events: u32,

    /// Fails if a device's exits take longer than the first one's by more than this
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    max_difference: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Eoi {
    /// By KVM's paravirtual EOI, as Linux guests do
    Pv,
    /// By the x2APIC's register
    X2apic,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Pattern {
    /// One target at a time, in turn
    Unicast,
    /// All at once
    Broadcast,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mechanism {
    /// Writes of the x2APIC's interrupt command register
    X2apic,
    /// KVM's hypercall
    PvIpi,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// Computing
    Busy,
    /// Halted
    Halted,
}

fn percentage(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..=1000.0).contains(&percent) => Ok(percent),
        _ => Err("not a percentage".into()),
    }
}

/// Runs a benchmark.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.bench {
        Bench::Ipi(args) => ipi(args),
        Bench::Exit(args) => exit(args),
    }
}

fn ipi(args: &IpiArgs) -> Result<ExitCode> {
    let options = args.common.options(args.eoi == Eoi::Pv)?;
    for path in &options.devices {
        let features = machine::features(&Device::open(path)?)?;
        ensure!(
            features.pv_send_ipi(),
            "{}: KVM lacks KVM_FEATURE_PV_SEND_IPI (the hypercall that sends interrupts)",
            path.display()
        );
        ensure!(
            features.pv_eoi() || !options.pv_eoi,
            "{}: KVM lacks KVM_FEATURE_PV_EOI; try --eoi x2apic",
            path.display()
        );
    }
    let plan = args.plan();
    let events = args
        .events
        .unwrap_or(if args.full { EVENTS_FULL } else { EVENTS });
    let report = measure(options, &plan, events)?;
    args.common
        .finish(&report, args.max_difference, |relative| {
            (relative.exits_without_timer, "exits per event")
        })
}

impl IpiArgs {
    /// The cases that are wanted.
    fn plan(&self) -> Vec<Case> {
        let chosen: Vec<usize> = self.vcpus.iter().copied().map(usize::from).collect();
        let (unicast, broadcast): (&[usize], &[usize]) = match (chosen.as_slice(), self.full) {
            ([], false) => (&[2], &[4, 8, 16]),
            ([], true) => (&[2, 4, 8, 16], &[3, 4, 8, 12, 16, MAX_VCPUS]),
            (chosen, _) => (chosen, chosen),
        };
        let mut plan = bench::ipi_plan(unicast, broadcast);
        plan.retain(|case| {
            self.case.is_none_or(|pattern| match pattern {
                Pattern::Unicast => case.pattern == mini_guest::Pattern::Unicast,
                Pattern::Broadcast => case.pattern == mini_guest::Pattern::Broadcast,
            }) && self.mechanism.is_none_or(|mechanism| match mechanism {
                Mechanism::X2apic => case.mechanism == mini_guest::Mechanism::X2Apic,
                Mechanism::PvIpi => case.mechanism == mini_guest::Mechanism::PvIpi,
            }) && self.target.is_none_or(|target| match target {
                Target::Busy => case.rest == Rest::Busy,
                Target::Halted => case.rest == Rest::Halted,
            })
        });
        plan
    }
}

fn exit(args: &ExitArgs) -> Result<ExitCode> {
    let report = measure(
        args.common.options(false)?,
        &bench::exit_plan(),
        args.events,
    )?;
    args.common
        .finish(&report, args.max_difference, |relative| {
            (relative.cycles, "cycles per exit")
        })
}

/// Measures all cases of a plan.
fn measure(options: Options, plan: &[Case], events: u32) -> Result<Report> {
    let mut session = Session::new(options.clone())?;
    let mut report = Report::new(options, plan)?;
    let pieces = plan.iter().map(|case| session.pieces(case, events)).sum();
    let mut progress = Display::new(plan.len(), pieces);

    for case in plan {
        let measurements = session
            .measure(case, events, &mut progress)
            .with_context(|| case.to_string())?;
        report.add(case, measurements);
    }
    progress.finish();
    report.set_baseline_failures(session.failures());
    Ok(report)
}

impl Common {
    fn options(&self, pv_eoi: bool) -> Result<Options> {
        let devices = if self.devices.is_empty() {
            device::present()
        } else {
            self.devices.clone()
        };
        let cpus = self.cpus.clone().map_or_else(CpuList::allowed, Ok)?;
        Ok(Options {
            devices,
            cpus,
            pv_eoi,
        })
    }

    /// Shows and writes the results, and says what they amount to.
    fn finish(
        &self,
        report: &Report,
        max_difference: Option<f64>,
        of: impl Fn(&bench::Relative) -> (f64, &'static str),
    ) -> Result<ExitCode> {
        println!("{}", bench::table(report));
        if report.baseline_failures() != 0 {
            println!(
                "A guest failed {} times on the baseline, and was measured again.",
                report.baseline_failures()
            );
        }
        if let Some(path) = &self.json {
            report
                .write(path)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        ensure!(
            report.misdelivered() == 0,
            "{} interrupts were lost or came twice",
            report.misdelivered()
        );

        let Some(percent) = max_difference else {
            return Ok(ExitCode::SUCCESS);
        };
        let mut status = ExitCode::SUCCESS;
        for row in &report.rows {
            let Some((ratio, what)) = row.relative.as_ref().map(&of) else {
                continue;
            };
            if row.is_by_chance() {
                continue;
            }
            // A ratio that is not a number is not within any bounds.
            let within = (ratio - 1.0).abs() * 100.0 <= percent;
            if !within {
                eprintln!(
                    "pvirq: {} {} {} {}, {} vCPUs: {what} on {} are {ratio:.4} times those on the first device",
                    row.bench, row.case, row.mechanism, row.target, row.vcpus, row.device.display(),
                );
                status = ExitCode::from(STATUS_DIFFERENT);
            }
        }
        Ok(status)
    }
}
