// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Results, as a table.

use std::ops::Range;

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
    let unit = report.environment.ground.unit();
    header.extend(
        names
            .iter()
            .take(1)
            .map(|name| format!("{unit}\n(median)\n{name}")),
    );
    header.extend(names.iter().skip(1).map(|_| format!("{unit}\n(ratio)")));
    table.set_header(header);

    for case in report.cases() {
        let mut line = vec![
            case[0].case.into(),
            case[0].mechanism.into(),
            target(&case[0]),
            case[0].vcpus.to_string(),
        ];
        // Not every case can be measured on every device.
        let cells = |devices: Range<usize>, text: &dyn Fn(&Row) -> Option<String>| {
            devices
                .map(|device| {
                    let row = case.iter().find(|row| row.measured.1 == device);
                    row.and_then(text).unwrap_or("-".into())
                })
                .collect::<Vec<_>>()
        };
        line.extend(cells(0..names.len(), &|row| Some(exits(row))));
        line.extend(cells(1..names.len(), &|row| {
            Some(format!("{:.3}", row.relative.as_ref()?.exits_without_timer))
        }));
        line.extend(cells(0..names.len().min(1), &|row| {
            Some(row.cycles_per_event?.p50.to_string())
        }));
        line.extend(cells(1..names.len(), &|row| {
            let cycles = row.relative.as_ref()?.cycles;
            (!cycles.is_nan()).then(|| format!("{cycles:.2}"))
        }));
        table.add_row(line);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn exits(row: &Row) -> String {
    let (exits, timer) = (row.exits_per_event, row.timer_exits_per_event);
    format!(
        "{:.2} + {:.2}",
        exits.sender - timer.sender,
        exits.target - timer.target
    )
}

fn target(row: &Row) -> String {
    match row.halt_poll_ns {
        Some(ns) => format!("{}, poll {} µs", row.target, ns / 1000),
        None => row.target.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::report::tests::{measurement, report_on},
        *,
    };
    use crate::ground::Ground;

    #[test]
    fn bochs_counts_instructions() {
        let report = |ground| report_on(ground, measurement(100, 0), measurement(50, 0));

        let bochs = report(Ground::Bochs);
        let row = serde_json::to_value(&bochs.rows[0]).unwrap();
        assert_eq!(row["instructions_per_event"], 50);
        assert_eq!(row["cycles_per_event"]["p50"], 50);
        let shown = table(&bochs).to_string();
        assert!(
            shown.contains("instructions") && !shown.contains("cycles"),
            "{shown}"
        );

        for ground in [Ground::QemuTcg, Ground::KvmNested, Ground::Hardware] {
            let other = report(ground);
            let row = serde_json::to_value(&other.rows[0]).unwrap();
            assert_eq!(row.get("instructions_per_event"), None);
            let shown = table(&other).to_string();
            assert!(
                shown.contains("cycles") && !shown.contains("instructions"),
                "{shown}"
            );
        }
    }
}
