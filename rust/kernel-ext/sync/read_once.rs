// SPDX-License-Identifier: GPL-2.0

//! Reads and writes of atomics without a call to C.
//!
//! C header: [`include/asm-generic/rwonce.h`](srctree/include/asm-generic/rwonce.h)
//!
//! The operations of [`Atomic`] are C functions, and calls to them without LTO. A relaxed load or
//! store is one access to memory, `READ_ONCE()` or `WRITE_ONCE()`, and needs no call. That matters on
//! paths so short that calls are most of their cost.

use kernel::sync::atomic::{
    Atomic,
    AtomicType, //
};

/// `READ_ONCE` and `WRITE_ONCE` of an atomic.
///
/// Any context. No ordering, as [`Relaxed`](kernel::sync::atomic::Relaxed).
pub trait ReadOnce<T> {
    /// Reads the value.
    fn read_once(&self) -> T;

    /// Writes the value.
    fn write_once(&self, value: T);
}

// Elsewhere an `atomic64_t` is not a single word.
#[cfg(CONFIG_64BIT)]
impl<T: AtomicType> ReadOnce<T> for Atomic<T> {
    #[inline(always)]
    fn read_once(&self) -> T {
        // SAFETY: The pointer is valid and aligned, and always points to a valid `T`. A volatile read
        // of at most a word is one access, as are all concurrent accesses.
        unsafe { self.as_ptr().read_volatile() }
    }

    #[inline(always)]
    fn write_once(&self, value: T) {
        // SAFETY: As in `read_once`.
        unsafe { self.as_ptr().write_volatile(value) }
    }
}
