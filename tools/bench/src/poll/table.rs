// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Results, as a table.

use comfy_table::{presets, CellAlignment, Table};

use super::{Report, Row};

/// Puts a report into a table: a line for each mode at each point.
pub fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "wake-ups",
        "every µs\n(achieved)",
        "mode",
        "exits per wake-up\nsender + target",
        "woken in\nguest/host/halt, %",
        "latency, µs\np50   p99",
        "CPU, %\nguest + host",
        "polled, %\nguest + host",
    ]);
    for row in &report.rows {
        table.add_row(line(row));
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn line(row: &Row) -> [String; 8] {
    let (exits, timer) = (&row.exits_per_event, &row.timer_exits_per_event);
    let (periods, latency) = (&row.periods_per_event, &row.latency_ns);
    let (cpu, polled) = (&row.cpu_per_second, &row.polled_per_second);
    let percent = |share: f64| format!("{:.0}", share * 100.0);
    [
        row.case.into(),
        format!(
            "{} ({})",
            micros(row.interval_ns),
            micros(row.achieved_interval_ns)
        ),
        row.mode.into(),
        format!(
            "{:.2} + {:.2}",
            exits.sender - timer.sender,
            exits.target - timer.target
        ),
        format!(
            "{} / {} / {}",
            percent(periods.guest),
            percent(periods.host),
            percent(periods.halt)
        ),
        latency.map_or("-".into(), |latency| {
            format!("{} {:>6}", micros(latency.p50), micros(latency.p99))
        }),
        format!("{} + {}", percent(cpu.guest), percent(cpu.host)),
        format!("{:.1} + {:.1}", polled.guest * 100.0, polled.host * 100.0),
    ]
}

/// Nanoseconds as microseconds, with three digits.
fn micros(ns: u64) -> String {
    let us = ns as f64 / 1000.0;
    match us {
        ..9.95 => format!("{us:.1}"),
        _ => format!("{us:.0}"),
    }
}
