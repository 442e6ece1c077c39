// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Results as a table.

use comfy_table::{presets, CellAlignment, Table};
use serde_json::Value;

use crate::row::{number, own_exits, text};

/// A column.
pub struct Column {
    heading: String,
    is_number: bool,
    cell: Box<dyn Fn(&Value) -> String>,
}

impl Column {
    /// Shows what `cell` makes of a row, to the right.
    pub fn new(heading: impl Into<String>, cell: impl Fn(&Value) -> String + 'static) -> Self {
        Column {
            heading: heading.into(),
            is_number: true,
            cell: Box::new(cell),
        }
    }

    /// Shows a text.
    pub fn text(heading: &str, name: &'static str) -> Self {
        Column {
            is_number: false,
            ..Column::new(heading, move |row| text(row, name).into())
        }
    }

    /// Shows a number with so many decimals.
    pub fn number(heading: impl Into<String>, pointer: &'static str, decimals: usize) -> Self {
        Column::new(heading, move |row| decimal(number(row, pointer), decimals))
    }

    /// Shows the exits of the sender and of all targets for each event, without those by the host's timer ticks, which
    /// come with time.
    pub fn exits(event: &str) -> Self {
        Column::new(format!("exits per {event}\nsender + target"), |row| {
            let [sender, target] = ["sender", "target"].map(|side| own_exits(row, side));
            format!("{sender:.2} + {target:.2}")
        })
    }
}

/// Returns a number with so many decimals, or a dash if it is not one.
pub fn decimal(number: f64, decimals: usize) -> String {
    match number.is_nan() {
        true => "-".into(),
        false => format!("{number:.decimals$}"),
    }
}

/// Puts rows into a table.
pub fn table(columns: &[Column], rows: &[Value]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(columns.iter().map(|column| &column.heading));
    for row in rows {
        table.add_row(columns.iter().map(|column| (column.cell)(row)));
    }
    for (shown, column) in table.column_iter_mut().zip(columns) {
        if column.is_number {
            shown.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
