// SPDX-License-Identifier: GPL-2.0

//! Counters that belong to one CPU.
//!
//! C header: [`arch/x86/include/asm/local.h`](srctree/arch/x86/include/asm/local.h)

use core::{
    arch::asm,
    cell::UnsafeCell, //
};

/// A counter to which one CPU adds, and which all may read.
///
/// An addition is a single instruction without a lock prefix: an interrupt comes before or after it, so that handlers on
/// the same CPU may count as well. Two CPUs that add at once may lose an addition. So whoever adds has preemption off, or is
/// bound to the CPU that the counter belongs to.
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

    /// Adds 1. On the CPU that the counter belongs to, in any context.
    #[inline(always)]
    pub fn increment(&self) {
        // SAFETY: The pointer is valid and aligned. The assembly is opaque to the compiler, so that this races with no
        // access of Rust's.
        unsafe {
            asm!("inc qword ptr [{counter}]", counter = in(reg) self.0.get(), options(nostack));
        }
    }

    /// Returns the sum, as of just now. Any CPU.
    #[inline]
    pub fn get(&self) -> u64 {
        // SAFETY: The pointer is valid and aligned. A volatile read of a word is one access, as each addition is.
        unsafe { self.0.get().read_volatile() }
    }
}

impl Default for LocalCounter {
    fn default() -> Self {
        Self::new()
    }
}
