// SPDX-License-Identifier: GPL-2.0 OR MIT

//! How the machine ends.

use core::fmt::Write;

use crate::{console::Console, cpu};

/// The machine's status after a self-test that passed.
pub const STATUS_OK: u8 = 0;
/// The machine's status after a self-test that failed, or a job that cannot be done.
pub const STATUS_FAILED: u8 = 1;
/// The machine's status after an exception or a panic.
pub const STATUS_CRASHED: u8 = 2;

/// Ends the machine with a message.
pub fn fail(message: core::fmt::Arguments<'_>) -> ! {
    let _ = writeln!(Console::lock(), "mini-guest: {message}");
    cpu::exit(STATUS_FAILED)
}
