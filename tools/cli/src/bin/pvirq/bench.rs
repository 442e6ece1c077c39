// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench`: measures.

mod frozen;
mod idle;
mod inject;
mod poll;
mod survive;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{ensure, Context, Result};
use clap::Subcommand;
use mini_guest::MAX_VCPUS;
use pvirq::device::{self, Device};
use pvirq_bench::{self as bench, results, Case, Extent, Options, Relative, Report, Session};
use serde::Serialize;
use vmm::cpus::CpuList;

use crate::progress::Display;

/// The exit status if devices differ by more than is allowed.
const STATUS_DIFFERENT: u8 = 3;

/// Events for each case and device, and the time after which a case ends with fewer.
const EVENTS: u32 = 600;
const CASE_LIMIT: Duration = Duration::from_millis(400);
/// Events for each case and device if there is time.
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
    Poll(poll::Args),
    Idle(idle::Args),
    Inject(inject::Args),
    Survive(survive::Args),
    Frozen(frozen::Args),
}

/// What benchmarks take that compare devices.
#[derive(clap::Args)]
struct Common {
    /// A device to measure; the first is what the others are compared with [default: /dev/kvm, and /dev/pvirq if there]
    #[arg(long = "device", value_name = "PATH")]
    devices: Vec<PathBuf>,

    #[command(flatten)]
    output: Output,
}

/// What all benchmarks take.
#[derive(clap::Args)]
struct Output {
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

/// Measures interrupts from one vCPU to others
///
/// An event is one interrupt to one target. Exits are those of the sender, and of all targets together, per event.
#[derive(clap::Args)]
struct IpiArgs {
    #[command(flatten)]
    common: Common,

    /// Events for each case and device [default: 600 or fewer, as time permits; 10000 with --full]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    events: Option<u32>,

    /// More cases, and more events
    #[arg(long)]
    full: bool,

    /// Only this case: one target at a time, all at once, or all to all at random
    #[arg(long, value_parser = ["unicast", "broadcast", "storm"])]
    case: Option<String>,

    /// Only this mechanism: the x2APIC's interrupt command register, KVM's hypercall, or pvirq's posts
    #[arg(long, value_parser = ["x2apic", "pv-ipi", "pvirq"])]
    mechanism: Option<String>,

    /// Only targets that do this until they are interrupted
    #[arg(long, value_parser = ["busy", "halted", "polling-guest", "polling-host", "mixed", "preempted"])]
    target: Option<String>,

    /// Only machines with so many vCPUs [default: 2 (unicast), 4, 16 (broadcast), 3, 5 (preempted), 8 (storm); more with --full]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(2..=MAX_VCPUS as i64))]
    vcpus: Vec<u8>,

    /// How the guest ends interrupts
    #[arg(long, value_enum, default_value_t = Eoi::Pv)]
    eoi: Eoi,

    /// Fails if a device's exits per event differ from the first one's by more than this, timer ticks aside
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    max_difference: Option<f64>,
}

/// Measures exits: to user space, by writes to a port, and those that KVM handles, by hypercalls
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
        Bench::Poll(args) => poll::run(args),
        Bench::Idle(args) => idle::run(args),
        Bench::Inject(args) => inject::run(args),
        Bench::Survive(args) => survive::run(args),
        Bench::Frozen(args) => frozen::run(args),
    }
}

fn ipi(args: &IpiArgs) -> Result<ExitCode> {
    let limit = (args.events.is_none() && !args.full).then_some(CASE_LIMIT);
    let options = args.common.options(args.eoi == Eoi::Pv, limit)?;
    for path in &options.devices {
        let features = Device::open(path)?.features()?;
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
    ensure!(!plan.is_empty(), "no case is like that");
    let events = args
        .events
        .unwrap_or(if args.full { EVENTS_FULL } else { EVENTS });
    let report = measure(options, &plan, events)?;
    args.common
        .finish(&report, args.max_difference, |relative| {
            let ratio = relative.exits_without_timer;
            (ratio, (ratio - 1.0).abs(), "exits")
        })
}

impl IpiArgs {
    /// The cases that are wanted.
    fn plan(&self) -> Vec<Case> {
        let chosen: Vec<usize> = self.vcpus.iter().copied().map(usize::from).collect();
        // A storm is no measurement in the first place, but a test.
        let storm = self.full || self.case.as_deref() == Some("storm");
        let mut extent = match (chosen.is_empty(), self.full) {
            (true, false) => Extent {
                unicast: vec![2],
                broadcast: vec![4, 16],
                preempted: vec![3, 5],
                storm: vec![8],
                full: false,
            },
            (true, true) => Extent {
                unicast: vec![2, 4, 8, 16, 32, MAX_VCPUS],
                broadcast: vec![3, 4, 8, 16, 32, MAX_VCPUS],
                preempted: vec![3, 5],
                storm: vec![8],
                full: true,
            },
            (false, full) => Extent {
                unicast: chosen.clone(),
                broadcast: chosen.clone(),
                // A target that is alone is never preempted by another.
                preempted: chosen.iter().copied().filter(|&n| n > 2).collect(),
                storm: chosen,
                full,
            },
        };
        if !storm {
            extent.storm.clear();
        }
        let mut plan = bench::ipi_plan(&extent);
        let wanted =
            |wanted: &Option<String>, name| wanted.as_ref().is_none_or(|wanted| wanted == name);
        plan.retain(|case| {
            wanted(&self.case, case.name())
                && wanted(&self.mechanism, case.mechanism())
                && wanted(&self.target, case.target.name())
        });
        plan
    }
}

fn exit(args: &ExitArgs) -> Result<ExitCode> {
    let options = args.common.options(false, None)?;
    let report = measure(options, &bench::exit_plan(), args.events)?;
    // Shorter is not worse.
    args.common
        .finish(&report, args.max_difference, |relative| {
            (relative.cycles, relative.cycles - 1.0, "cycles")
        })
}

/// Measures all cases of a plan.
fn measure(options: Options, plan: &[Case], events: u32) -> Result<Report> {
    let groups = || plan.chunk_by(|one, other| one.group() == other.group());
    let mut session = Session::new(options.clone())?;
    let mut report = Report::new(options, plan)?;
    let mut progress = Display::new(groups().count());

    if plan.iter().all(Case::posts) {
        ensure!(
            session.finds_pvirq(&mut progress)?,
            "no guest finds pvirq on the devices; is pvirq.ko loaded, and {} measured?",
            device::PVIRQ
        );
    }
    let mut pieces = 0;
    for group in groups() {
        pieces += session.pieces(group, events, &mut progress)?;
    }
    progress.set_pieces(pieces);
    for group in groups() {
        let measured = session
            .measure(group, events, &mut progress)
            .with_context(|| group[0].group().to_string())?;
        report.add(&measured);
    }
    progress.finish();
    report.set_failures(session.baseline(), session.cpu_faults());
    Ok(report)
}

impl Output {
    fn cpus(&self) -> Result<CpuList> {
        Ok(self.cpus.clone().map_or_else(CpuList::allowed, Ok)?)
    }

    /// Writes results, if that is wanted.
    fn write(&self, report: &impl Serialize) -> Result<()> {
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

impl Common {
    fn options(&self, pv_eoi: bool, limit: Option<Duration>) -> Result<Options> {
        let devices = if self.devices.is_empty() {
            device::present()
        } else {
            self.devices.clone()
        };
        let cpus = self.output.cpus()?;
        Ok(Options {
            devices,
            cpus,
            pv_eoi,
            limit,
        })
    }

    /// Shows and writes the results, and judges them: `compare` gives what a device is compared by, relative to the
    /// first one, how far off that is, and its name.
    fn finish(
        &self,
        report: &Report,
        max_difference: Option<f64>,
        compare: impl Fn(&Relative) -> (f64, f64, &'static str),
    ) -> Result<ExitCode> {
        println!("{}", report.environment);
        println!("{}", bench::table(report));
        println!("Exits by the host's timer ticks are not in the table.");
        if report.rows.iter().any(|row| row.posts.is_some()) {
            println!("pvirq is compared with x2apic on the first device.");
        }
        let sum = |of: fn(&bench::Row) -> u64| report.rows.iter().map(of).sum::<u64>();
        println!(
            "{} events: {} lost, {} came again.",
            sum(|row| row.events),
            sum(|row| row.lost),
            sum(|row| row.duplicates)
        );
        let (failures, runs) = (
            report.environment.baseline_failures,
            report.environment.baseline_runs,
        );
        println!(
            "Guests failed {failures} of {runs} times on {}.",
            device::KVM
        );
        let cpu_faults = report.environment.cpu_faults;
        if cpu_faults != 0 {
            println!(
                "CPUs did what none should {cpu_faults} times; see Documentation/smp-guests.rst."
            );
        }
        self.output.write(report)?;
        let misdelivered = report.misdelivered();
        ensure!(
            misdelivered == 0,
            "{misdelivered} interrupts were lost or came twice"
        );

        let mut status = ExitCode::SUCCESS;
        let rows = report.rows.iter().filter(|row| row.is_comparable());
        for (row, relative) in rows.filter_map(|row| Some((row, row.relative.as_ref()?))) {
            let (ratio, difference, what) = compare(relative);
            // What is not a number is not within any bounds.
            let within = max_difference.is_none_or(|percent| difference * 100.0 <= percent);
            if !within {
                let device = row.device.display();
                eprintln!("pvirq: {device}: {row}: {ratio:.4} times as many {what} as on the first device");
                status = ExitCode::from(STATUS_DIFFERENT);
            }
        }
        Ok(status)
    }
}
