// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What rows of results have in common.
//!
//! A row is a JSON object. `Documentation/benchmarks.rst` describes the fields.

use exit_count::exits::{Exits, Reason};
use pvirq_protocol::Tally;
use serde::Serialize;
use serde_json::{json, Map, Value};

/// Sets a field that only some rows have.
pub fn set(row: &mut Value, name: &str, value: Option<impl Serialize>) {
    if let Some(value) = value {
        row[name] = json!(value);
    }
}

/// Returns a count, 0 if there is none.
pub fn count(row: &Value, name: &str) -> u64 {
    row[name].as_u64().unwrap_or(0)
}

/// Returns a number, which is not one if there is none.
pub fn number(row: &Value, pointer: &str) -> f64 {
    row.pointer(pointer)
        .and_then(Value::as_f64)
        .unwrap_or(f64::NAN)
}

/// Returns a text, empty if there is none.
pub fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row[name].as_str().unwrap_or("")
}

/// Divides a count by the number of events, if there were any.
pub fn per_event(count: u64, events: u64) -> f64 {
    match events {
        0 => 0.0,
        _ => count as f64 / events as f64,
    }
}

/// Returns exits per event, by reason.
pub fn by_reason(exits: &Exits, events: u64) -> Value {
    let reasons = Reason::ALL.iter().map(|&reason| {
        let name = reason.name().to_owned();
        (name, json!(per_event(exits[reason], events)))
    });
    Value::Object(reasons.collect::<Map<_, _>>())
}

/// Sets the exits of the sender and of all targets, per event.
pub fn set_exits(row: &mut Value, sender: &Exits, target: &Exits, events: u64) {
    let sides = |of: &dyn Fn(&Exits) -> Value| json!({"sender": of(sender), "target": of(target)});

    row["exits_per_event"] = sides(&|exits| json!(per_event(exits.total(), events)));
    row["exits_by_reason"] = sides(&|exits| by_reason(exits, events));
    row["timer_exits_per_event"] = sides(&|exits| json!(per_event(exits.timer, events)));
}

/// Returns the exits of one side per event, without the timer's, of a row that has both sides'.
pub fn own_exits(row: &Value, side: &str) -> f64 {
    let of = |name: &str| number(row, &format!("/{name}/{side}"));
    of("exits_per_event") - of("timer_exits_per_event")
}

/// Returns how posts ended.
pub fn posts(tally: &Tally) -> Value {
    json!({"coalesced": tally.coalesced, "elided": tally.elided, "kicked": tally.kicked})
}

/// Adds how more posts ended.
pub fn add_posts(sum: &mut Tally, more: &Tally) {
    sum.coalesced += more.coalesced;
    sum.elided += more.elided;
    sum.kicked += more.kicked;
}
