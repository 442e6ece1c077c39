// SPDX-License-Identifier: GPL-2.0

//! Counters that belong to one CPU.
//!
//! C header: [`arch/x86/include/asm/local.h`](srctree/arch/x86/include/asm/local.h)

use core::{
    arch::asm,
    cell::UnsafeCell, //
};

/// A counter that one CPU increments and any CPU may read.
///
/// An increment is a single instruction without a lock prefix: an interrupt comes before or after it, so interrupt
/// handlers on the same CPU may count as well. Two CPUs that increment at once may lose an increment. So callers have
/// preemption off, or are bound to the counter's CPU.
#[repr(transparent)]
pub struct LocalCounter(UnsafeCell<u64>);

// SAFETY: The word is accessed by single instructions only, which any CPU may execute at any time.
unsafe impl Send for LocalCounter {}
// SAFETY: As above.
unsafe impl Sync for LocalCounter {}

impl LocalCounter {
    /// Returns a counter at 0.
    pub const fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    /// Adds 1. On the counter's CPU, in any context.
    #[inline(always)]
    pub fn increment(&self) {
        // SAFETY: The pointer is valid and aligned. The assembly is opaque to the compiler, so it races with no access
        // of Rust's.
        unsafe {
            asm!("inc qword ptr [{counter}]", counter = in(reg) self.0.get(), options(nostack));
        }
    }

    /// Returns the value, which may be outdated at once. On any CPU.
    #[inline]
    pub fn get(&self) -> u64 {
        // SAFETY: The pointer is valid and aligned. A volatile read of a word is one access, as each increment's write is.
        unsafe { self.0.get().read_volatile() }
    }
}

impl Default for LocalCounter {
    fn default() -> Self {
        Self::new()
    }
}
