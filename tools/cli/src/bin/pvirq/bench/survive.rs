// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench survive`: saves and restores guests, and counts interrupts that are lost or come twice.

use std::{
    path::Path,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{ensure, Result};
use mini_guest::LEDGER_VCPUS;
use pvirq::device::PVIRQ;
use pvirq_bench::survive::{survive_plan, Survive, SurviveDevice};

use super::output::{is_wanted, Output};

/// Saves and restores guests by KVM's API, at random points, with interrupts under way
///
/// The guest's vCPUs interrupt each other, and a thread signals eventfds. Each round ends in a new VM. What is lost or comes
/// twice makes the command fail.
#[derive(clap::Args)]
pub struct Args {
    /// Saves and restores, in each case
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    rounds: u32,

    /// Only on these devices: KVM's, pvirq's, or both at random [default: all that there are]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = SurviveDevice::ALL.map(SurviveDevice::name))]
    devices: Vec<String>,

    /// Only this mechanism between vCPUs: the x2APIC's interrupt command register, or pvirq's posts
    #[arg(long, value_parser = ["x2apic", "pvirq"])]
    mechanism: Option<String>,

    /// Machines with so many vCPUs
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "2,4", value_parser = clap::value_parser!(u8).range(2..=LEDGER_VCPUS as i64))]
    vcpus: Vec<u8>,

    /// Only VMMs that save what is posted with the local APICs, or by pvirq's ioctls as well
    #[arg(long, value_parser = ["lapic", "posted"])]
    saved_by: Option<String>,

    /// What random numbers begin with [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    #[command(flatten)]
    output: Output,
}

/// Runs it.
pub fn run(args: &Args) -> Result<ExitCode> {
    let there = |device: &SurviveDevice| device.paths().iter().all(|path| Path::new(path).exists());
    let wanted = |device: &SurviveDevice| match args.devices.as_slice() {
        [] => there(device),
        names => names.iter().any(|name| name == device.name()),
    };
    let devices: Vec<_> = SurviveDevice::ALL.into_iter().filter(wanted).collect();
    ensure!(
        devices.iter().all(there),
        "{PVIRQ} is not there; is pvirq.ko loaded?"
    );
    let vcpus: Vec<_> = args.vcpus.iter().copied().map(usize::from).collect();
    let mut plan = survive_plan(&devices, &vcpus, true);
    plan.retain(|case| {
        is_wanted(&args.mechanism, case.mechanism()) && is_wanted(&args.saved_by, case.posted())
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = args
        .seed
        .unwrap_or_else(|| now.map_or(1, |now| now.as_secs()));
    println!("Seed: {seed}.");
    let survive = Survive {
        plan,
        rounds: args.rounds,
        seed,
    };
    args.output
        .measure(args.output.session(true)?, &[Box::new(survive)])
}
