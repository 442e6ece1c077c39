// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Results, as a table.

use comfy_table::{presets, CellAlignment, Table};

use super::report::{Report, Row};

/// Puts a report into a table: a line for each case, with the devices side by side.
///
/// Exits are those without the host's timer ticks, which would hide what is to be seen.
pub fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);

    let names: Vec<_> = report
        .environment
        .devices
        .iter()
        .map(|device| device.display().to_string())
        .collect();
    let mut header: Vec<String> = ["case", "mechanism", "target", "vCPUs"]
        .map(String::from)
        .into();
    header.extend(
        names
            .iter()
            .map(|name| format!("exits per event\nsender + target\n{name}")),
    );
    header.extend(names.iter().skip(1).map(|_| "exits\n(ratio)".into()));
    header.extend(
        names
            .iter()
            .take(1)
            .map(|name| format!("cycles\n(median)\n{name}")),
    );
    header.extend(names.iter().skip(1).map(|_| "cycles\n(ratio)".into()));
    table.set_header(header);

    for case in report.cases() {
        let mut line = vec![
            case[0].case.into(),
            case[0].mechanism.into(),
            target(&case[0]),
            case[0].vcpus.to_string(),
        ];
        line.extend(case.iter().map(|row| {
            let (exits, timer) = (row.exits_per_event, row.timer_exits_per_event);
            format!(
                "{:.2} + {:.2}",
                exits.sender - timer.sender,
                exits.target - timer.target
            )
        }));
        let relative = || case.iter().filter_map(|row| row.relative.as_ref());
        line.extend(relative().map(|relative| format!("{:.3}", relative.exits_without_timer)));
        line.push(
            case[0]
                .cycles_per_event
                .map_or("-".into(), |cycles| cycles.p50.to_string()),
        );
        line.extend(relative().map(|relative| format!("{:.2}", relative.cycles)));
        table.add_row(line);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn target(row: &Row) -> String {
    match row.halt_poll_ns {
        Some(ns) => format!("{}, poll {} µs", row.target, ns / 1000),
        None => row.target.into(),
    }
}
