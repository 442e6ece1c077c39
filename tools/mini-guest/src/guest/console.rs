// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The serial console.

use core::{
    fmt, hint,
    sync::atomic::{
        AtomicBool,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use mini_guest::port;

use crate::cpu;

static LOCKED: AtomicBool = AtomicBool::new(false);

/// The console, for one vCPU until it is dropped.
pub struct Console(());

impl Console {
    /// Waits until no other vCPU writes.
    pub fn lock() -> Self {
        while LOCKED.swap(true, Acquire) {
            hint::spin_loop();
        }
        Console(())
    }

    /// Takes the console from the vCPU that has it, for a last message.
    pub fn seize() -> Self {
        LOCKED.store(true, Relaxed);
        Console(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        LOCKED.store(false, Release);
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: The serial port has no effect on memory. It takes bytes at any time, and in strings, which a real
        // one would not, but it saves an exit for each byte.
        unsafe { cpu::out_bytes(port::SERIAL, text.as_bytes()) };
        Ok(())
    }
}
