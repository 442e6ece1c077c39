// SPDX-License-Identifier: GPL-2.0 OR MIT

//! `pvirq bench inject`: measures interrupts from devices.

use std::process::ExitCode;

use anyhow::{ensure, Context, Result};
use comfy_table::{presets, CellAlignment, Table};
use pvirq_bench::{inject_plan, InjectRow, InjectSession, Injection};

use super::Output;

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
    #[arg(long, value_parser = ["busy", "halted", "polling-guest", "polling-host", "preempted"])]
    target: Option<String>,

    /// Only bursts of so many sources
    #[arg(long, value_name = "N")]
    burst: Option<u32>,

    /// Only such signals: by a system call each, for one vector or several, or by the kernel
    #[arg(long, value_parser = ["burst", "vectors", "kernel"])]
    signals: Option<String>,

    #[command(flatten)]
    output: Output,
}

/// Runs the benchmark.
pub fn run(args: &Args) -> Result<ExitCode> {
    let cpus = args.output.cpus()?;
    let injections: Vec<_> = Injection::ALL
        .into_iter()
        .filter(|injection| {
            args.mechanism.is_empty() || args.mechanism.iter().any(|name| name == injection.name())
        })
        .collect();
    let plan: Vec<_> = inject_plan()
        .into_iter()
        .filter(|case| {
            args.target
                .as_ref()
                .is_none_or(|target| target == case.target.name())
                && args.burst.is_none_or(|burst| burst == case.burst)
                && args
                    .signals
                    .as_ref()
                    .is_none_or(|name| name == case.signals.name())
        })
        .collect();
    ensure!(!plan.is_empty(), "no case is like that");

    let session = InjectSession::new(cpus)?;
    let mut rows = Vec::new();
    for case in &plan {
        let name = format!("{} {}", case.target.name(), case.name());
        eprintln!("{name}");
        let injections: Vec<_> = injections
            .iter()
            .copied()
            .filter(|injection| case.is_for(*injection))
            .collect();
        let note = |text: &str| eprintln!("{text}");
        rows.extend(
            session
                .measure(case, &injections, args.events, note)
                .with_context(|| name)?,
        );
    }
    println!("{}", session.environment());
    println!("{}", table(&rows, session.environment().ground.unit()));
    let lost: u64 = rows.iter().map(|row| row.lost).sum();
    args.output.write(&session.report(rows))?;
    ensure!(lost == 0, "{lost} interrupts were lost");
    Ok(ExitCode::SUCCESS)
}

/// Puts rows into a table, where times are numbers of `unit`.
fn table(rows: &[InjectRow], unit: &str) -> Table {
    let mut table = Table::new();

    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    let fixed = [
        "case",
        "target",
        "mechanism",
        "events",
        "exits\n(target)",
        "handled",
        "kicks",
        "system\ncalls",
    ];
    let times = ["median", "p99", "ratio"].map(|what| format!("{unit}\n({what})"));
    table.set_header(fixed.map(String::from).into_iter().chain(times));
    for row in rows {
        let cycles = |of: fn(pvirq_bench::Summary) -> u64| {
            row.cycles_per_burst
                .map_or("-".into(), |summary| of(summary).to_string())
        };
        table.add_row([
            row.case.clone(),
            row.target.into(),
            row.mechanism.into(),
            row.events.to_string(),
            format!("{:.3}", row.exits_per_event),
            format!("{:.3}", row.handled as f64 / row.events as f64),
            format!("{:.3}", row.kicks_per_event),
            format!("{:.3}", row.system_calls_per_event),
            cycles(|summary| summary.p50),
            cycles(|summary| summary.p99),
            row.cycles_ratio
                .map_or("-".into(), |ratio| format!("{ratio:.2}")),
        ]);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
