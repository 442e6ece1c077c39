// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench inject`: measures interrupts from devices.

use std::process::ExitCode;

use anyhow::Result;
use pvirq_bench::{
    inject::{inject_plan, Inject, Injection, Signals},
    target::Target,
};

use super::output::{has_pv_eoi, is_wanted, Output};

/// Measures interrupts that a thread of the VMM signals by eventfds
///
/// An event is one signal. Exits are those of the target, per event, without those by the host's timer.
#[derive(clap::Args)]
pub struct Args {
    /// Signals for each case and mechanism
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    events: u32,

    /// Only these mechanisms [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = Injection::ALL.map(Injection::name))]
    mechanism: Vec<String>,

    /// Only targets that do this until they are interrupted
    #[arg(long, value_parser = Inject::TARGETS.map(Target::name))]
    target: Option<String>,

    /// Only bursts of so many sources
    #[arg(long, value_name = "N")]
    burst: Option<u32>,

    /// Only such signals: by a system call each, for one vector or several, or by the kernel
    #[arg(long, value_parser = Signals::ALL.map(Signals::name))]
    signals: Option<String>,

    #[command(flatten)]
    output: Output,
}

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut injections = Injection::ALL.to_vec();
    injections.retain(|injection| {
        args.mechanism.is_empty() || args.mechanism.iter().any(|name| name == injection.name())
    });
    let mut plan = inject_plan();
    plan.retain(|case| {
        is_wanted(&args.target, case.target.name())
            && args.burst.is_none_or(|burst| burst == case.burst)
            && is_wanted(&args.signals, case.signals.name())
    });
    let session = args.output.session(has_pv_eoi()?)?;
    let inject = Inject::new(session.cpus.clone(), plan, injections, args.events)?;
    args.output.measure(session, &[Box::new(inject)])
}
