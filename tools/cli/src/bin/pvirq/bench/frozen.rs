// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench frozen`: stops senders in their posts, and measures another's interrupts.

use std::process::ExitCode;

use anyhow::{ensure, Context, Result};
use pvirq_bench::{Frozen, FrozenCase, FrozenReport};

use super::Output;

/// Measures interrupts while another sender of the same vector to the same vCPU is stopped in its post
///
/// A process that posts is killed, or a vCPU is kept from running in its post.
#[derive(clap::Args)]
pub struct Args {
    /// Only this case: a process is killed, or a vCPU is stopped
    #[arg(long, value_parser = FrozenCase::ALL.map(FrozenCase::name))]
    case: Option<String>,

    /// How often a sender is stopped, in each way
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    stops: u32,

    #[command(flatten)]
    output: Output,
}

/// Runs it.
pub fn run(args: &Args) -> Result<ExitCode> {
    let cpus = args.output.cpus()?;
    let frozen = Frozen::new(cpus.clone())?;
    let mut report = FrozenReport::new(&cpus)?;
    println!("{}", report.environment);
    let wanted = |case: &FrozenCase| args.case.as_deref().is_none_or(|name| name == case.name());
    for case in FrozenCase::ALL.into_iter().filter(wanted) {
        let rows = frozen
            .measure(case, args.stops, &mut |text| eprintln!("{text}"))
            .context(case.name())?;
        for row in rows {
            println!("{row}");
            report.rows.push(row);
        }
    }
    args.output.write(&report)?;
    let lost: u64 = report.rows.iter().map(|row| row.lost).sum();
    println!("{lost} interrupts lost.");
    ensure!(lost == 0, "{lost} interrupts were lost");
    Ok(ExitCode::SUCCESS)
}
