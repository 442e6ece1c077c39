// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The `pvirq` command.

mod bench;
mod doctor;
mod plot;
mod progress;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::sys::resource::{getrlimit, setrlimit, Resource};

/// Software posted interrupts for KVM: run guests, measure what interrupts cost, check the machine
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Bench(bench::Args),
    Plot(plot::Args),
    Doctor(doctor::Args),
}

/// Allows for as many files as the system does: each vCPU takes several, to run it and to count its exits.
fn raise_file_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // If it cannot be raised, it may be enough.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

fn main() -> ExitCode {
    raise_file_limit();
    let result = match Args::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Plot(args) => plot::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("pvirq: {error:#}");
        ExitCode::FAILURE
    })
}
