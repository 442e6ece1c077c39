// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench idle`: measures what polling for idle vCPUs is worth, and what it costs others.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{bail, ensure, Result};
use pvirq::{
    device::{KVM, PVIRQ},
    error::Error,
};
use pvirq_bench::idle::{Options, IDLE_CASES};

use super::output::{is_wanted, percentage, Devices, Output};

/// Measures idle vCPUs: how soon they take interrupts, what they leave to a neighbour, and whether they miss anything
///
/// vCPU 1 idles on the second CPU. The first device is KVM's own, where it halts; the second is pvirq's, where it polls,
/// makes the idle call, and halts.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    devices: Devices,

    #[command(flatten)]
    output: Output,

    /// Only this case: interrupts of the timer or of an eventfd while the host polls; a CPU-bound task on the vCPU's CPU, what
    /// it loses, and how soon polling gives way to it; interrupts from everywhere at random
    #[arg(long, value_parser = IDLE_CASES.map(|case| case.name))]
    case: Option<String>,

    /// Interrupts that are measured, on each device, and idle periods at random
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100_000_000))]
    events: u32,

    /// Pairs of measurements with a neighbour, and times that one comes
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pairs: u32,

    /// Fails if interrupts are later on the second device, or a neighbour has less, by more than this
    #[arg(long, value_name = "PERCENT", value_parser = percentage)]
    max_difference: Option<f64>,
}

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    let devices = <[PathBuf; 2]>::try_from(args.devices.paths());
    let Ok(devices) = devices else {
        let is_kvm = devices.is_err_and(|devices| devices.first() == Some(&KVM.into()));
        bail!(Error::NoDevice(if is_kvm { PVIRQ } else { KVM }.into()));
    };
    let session = args.output.session(true)?;
    let options = Options {
        devices,
        events: args.events,
        pairs: args.pairs,
        max_difference: args.max_difference,
    };
    let mut benches = Vec::new();
    for case in IDLE_CASES
        .iter()
        .filter(|case| is_wanted(&args.case, case.name))
    {
        ensure!(
            case.can_share_cpu || session.cpus.len() > 1,
            "it takes two CPUs, except for arrivals"
        );
        benches.push((case.prepare)(options.clone()));
    }
    args.output.measure(session, &benches)
}
