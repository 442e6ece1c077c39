// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench`: measures.

mod frozen;
mod idle;
mod inject;
mod ipi;
mod output;
mod poll;
mod survive;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// Measures what interrupts and exits cost
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    Ipi(ipi::IpiArgs),
    Exit(ipi::ExitArgs),
    Poll(poll::Args),
    Idle(idle::Args),
    Inject(inject::Args),
    Survive(survive::Args),
    Frozen(frozen::Args),
}

/// Runs a benchmark.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.bench {
        Bench::Ipi(args) => ipi::run(args),
        Bench::Exit(args) => ipi::run_exit(args),
        Bench::Poll(args) => poll::run(args),
        Bench::Idle(args) => idle::run(args),
        Bench::Inject(args) => inject::run(args),
        Bench::Survive(args) => survive::run(args),
        Bench::Frozen(args) => frozen::run(args),
    }
}
