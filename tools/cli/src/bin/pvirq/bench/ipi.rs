// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench ipi` and `exit`: measure interrupts between vCPUs, and exits.

use std::{process::ExitCode, time::Duration};

use anyhow::{ensure, Result};
use mini_guest::MAX_VCPUS;
use pvirq::device::{Device, PVIRQ};
use pvirq_bench::{
    ipi::{exit_plan, ipi_plan, Bound, Case, Extent, Ipi, Options},
    target::Target,
};

use super::output::{is_wanted, percentage, Devices, Output};

/// Events for each case and device, and the time after which a case ends with fewer.
const EVENTS: u32 = 600;
const CASE_LIMIT: Duration = Duration::from_millis(400);
/// Events for each case and device if there is time.
const EVENTS_FULL: u32 = 10_000;

/// Measures interrupts from one vCPU to others
///
/// An event is one interrupt to one target. Exits are those of the sender, and of all targets together, per event.
#[derive(clap::Args)]
pub struct IpiArgs {
    #[command(flatten)]
    devices: Devices,

    #[command(flatten)]
    output: Output,

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
    #[arg(long, value_parser = Target::ALL.map(Target::name))]
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
pub struct ExitArgs {
    #[command(flatten)]
    devices: Devices,

    #[command(flatten)]
    output: Output,

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

/// Measures interrupts.
pub fn run(args: &IpiArgs) -> Result<ExitCode> {
    let devices = args.devices.paths();
    for path in &devices {
        let features = Device::open(path)?.features()?;
        ensure!(
            features.pv_send_ipi(),
            "{}: KVM lacks KVM_FEATURE_PV_SEND_IPI (the hypercall that sends interrupts)",
            path.display()
        );
        ensure!(
            features.pv_eoi() || args.eoi == Eoi::X2apic,
            "{}: KVM lacks KVM_FEATURE_PV_EOI; try --eoi x2apic",
            path.display()
        );
    }
    let all = if args.full { EVENTS_FULL } else { EVENTS };
    let options = Options {
        devices,
        events: args.events.unwrap_or(all),
        limit: (args.events.is_none() && !args.full).then_some(CASE_LIMIT),
        bound: args.max_difference.map(Bound::Exits),
    };
    measure(&args.output, args.eoi == Eoi::Pv, options, &args.plan())
}

impl IpiArgs {
    /// The cases that are wanted.
    fn plan(&self) -> Vec<Case> {
        let chosen: Vec<usize> = self.vcpus.iter().copied().map(usize::from).collect();
        // A storm is no measurement in the first place, but a test.
        let storm = self.full || self.case.as_deref() == Some("storm");
        let (unicast, broadcast) = match self.full {
            true => (
                vec![2, 4, 8, 16, 32, MAX_VCPUS],
                vec![3, 4, 8, 16, 32, MAX_VCPUS],
            ),
            false => (vec![2], vec![4, 16]),
        };
        let mut extent = match chosen.is_empty() {
            true => Extent {
                unicast,
                broadcast,
                preempted: vec![3, 5],
                storm: vec![8],
                full: self.full,
            },
            false => Extent {
                unicast: chosen.clone(),
                broadcast: chosen.clone(),
                // A target that is alone is never preempted by another.
                preempted: chosen.iter().copied().filter(|&n| n > 2).collect(),
                storm: chosen,
                full: self.full,
            },
        };
        if !storm {
            extent.storm.clear();
        }
        let mut plan = ipi_plan(&extent);
        plan.retain(|case| {
            is_wanted(&self.case, case.name())
                && is_wanted(&self.mechanism, case.mechanism())
                && is_wanted(&self.target, case.target.name())
        });
        plan
    }
}

/// Measures exits.
pub fn run_exit(args: &ExitArgs) -> Result<ExitCode> {
    let options = Options {
        devices: args.devices.paths(),
        events: args.events,
        limit: None,
        bound: args.max_difference.map(Bound::Cycles),
    };
    measure(&args.output, false, options, &exit_plan())
}

fn measure(output: &Output, pv_eoi: bool, options: Options, plan: &[Case]) -> Result<ExitCode> {
    ensure!(!plan.is_empty(), "no case is like that");
    let mut session = output.session(pv_eoi)?;
    let ipi = Ipi::new(&mut session, options, plan, &mut |text| eprintln!("{text}"))?;
    ensure!(
        ipi.finds_pvirq() || !plan.iter().all(Case::posts),
        "no guest finds pvirq on the devices; is pvirq.ko loaded, and {PVIRQ} measured?"
    );
    output.measure(session, &[Box::new(ipi)])
}
