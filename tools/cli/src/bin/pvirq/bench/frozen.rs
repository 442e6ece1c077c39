// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench frozen`: stops senders in their posts, and measures another's interrupts.

use std::process::ExitCode;

use anyhow::Result;
use pvirq_bench::frozen::{Frozen, FrozenCase};

use super::output::{is_wanted, Output};

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

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    let wanted = |case: &FrozenCase| is_wanted(&args.case, case.name());
    let frozen = Frozen {
        cases: FrozenCase::ALL.into_iter().filter(wanted).collect(),
        stops: args.stops,
    };
    args.output
        .measure(args.output.session(true)?, &[Box::new(frozen)])
}
