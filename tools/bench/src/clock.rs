// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Times in cycles of the guest's time stamp counter.

use std::time::Duration;

/// Converts a time into cycles of a counter of `khz`.
pub fn cycles(time: Duration, khz: u32) -> u64 {
    time.as_micros() as u64 * u64::from(khz) / 1000
}

/// Converts a time into cycles, fractions of a µs included.
pub fn cycles_exactly(time: Duration, khz: u32) -> u64 {
    (time.as_secs_f64() * f64::from(khz) * 1000.0) as u64
}

/// Converts cycles of a counter of `khz` into ns.
pub fn to_ns(cycles: u64, khz: u32) -> u64 {
    cycles.saturating_mul(1_000_000) / u64::from(khz.max(1))
}
