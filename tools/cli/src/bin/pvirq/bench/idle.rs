// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench idle`: measures what polling for idle vCPUs is worth, and what it costs others.

use std::process::ExitCode;

use anyhow::{ensure, Context, Result};
use pvirq_bench::{Idle, IdleReport, IDLE_CASES};

use super::{percentage, Common, STATUS_DIFFERENT};

/// Measures idle vCPUs: how soon they take interrupts, what they leave to a neighbour, and whether they miss anything
///
/// vCPU 1 idles on the second CPU. The first device is KVM's own, where it halts; the second is pvirq's, where it polls,
/// makes the idle call, and halts.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,

    /// Only this case: interrupts of the timer or of an eventfd while the host polls; a CPU-bound task on the vCPU's CPU, what
    /// it loses, and how soon polling gives way to it; interrupts from everywhere at random
    #[arg(long, value_parser = IDLE_CASES.map(|(_, name)| name))]
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

/// Measures, shows the results, writes and judges them.
pub fn run(args: &Args) -> Result<ExitCode> {
    let options = args.common.options(true, None)?;
    let alone = options.cpus.len() == 1;
    let mut report = IdleReport::new(&options)?;
    let idle = Idle::new(options)?;
    let wanted = |name| args.case.as_deref().is_none_or(|case| case == name);
    ensure!(
        !alone || args.case.as_deref() == Some("arrivals"),
        "it takes two CPUs, except for arrivals"
    );

    println!("{}", report.environment);
    for (case, name) in IDLE_CASES.into_iter().filter(|&(_, name)| wanted(name)) {
        let rows = idle
            .measure(case, args.events, args.pairs, &mut |text| {
                eprintln!("{text}");
            })
            .context(name)?;
        for row in &rows {
            println!("{row}");
        }
        report.rows.extend(rows);
    }
    args.common.output.write(&report)?;
    let lost: u64 = report.rows.iter().map(|row| row.lost()).sum();
    ensure!(lost == 0, "{lost} interrupts were missed");

    let percent = args.max_difference.unwrap_or(f64::INFINITY);
    let worse = report.rows.iter().filter(|row| {
        let excess = row.excess().unwrap_or(0.0);
        // What is not a number is not within any bounds.
        let within = excess * 100.0 <= percent;
        !within
    });
    let mut status = ExitCode::SUCCESS;
    for row in worse {
        eprintln!("pvirq: worse by more than {percent} %: {row}");
        status = ExitCode::from(STATUS_DIFFERENT);
    }
    Ok(status)
}
