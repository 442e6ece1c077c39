// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Waiting without a sleep, for what comes within microseconds.

use std::{
    hint::spin_loop,
    time::{Duration, Instant},
};

/// Spins until something holds, for `patience` at most; says whether it does.
pub fn spin_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > patience {
            return done();
        }
        spin_loop();
    }
    true
}
