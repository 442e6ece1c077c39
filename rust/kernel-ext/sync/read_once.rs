// SPDX-License-Identifier: GPL-2.0

//! Reads and writes of atomics without a call.
//!
//! C header: [`include/asm-generic/rwonce.h`](srctree/include/asm-generic/rwonce.h)
//!
//! The operations of [`Atomic`] are C functions, which a kernel that is built without LTO calls each
//! time. A relaxed load or store is one access to memory, `READ_ONCE` or `WRITE_ONCE`, so it needs
//! none. Where a path is so short that calls are most of it, it can do without.

use kernel::sync::atomic::{
    Atomic,
    AtomicType, //
};

/// `READ_ONCE` and `WRITE_ONCE` of an atomic.
///
/// Any context. They order nothing: as [`Relaxed`](kernel::sync::atomic::Relaxed).
pub trait ReadOnce<T> {
    /// Reads the value.
    fn read_once(&self) -> T;

    /// Writes the value.
    fn write_once(&self, value: T);
}

// `atomic64_t` is no single word elsewhere.
#[cfg(CONFIG_64BIT)]
impl<T: AtomicType> ReadOnce<T> for Atomic<T> {
    #[inline(always)]
    fn read_once(&self) -> T {
        // SAFETY: The pointer is valid and aligned, and what is there is always a valid `T`. A
        // volatile read of at most a word is one access, as is what others do to it meanwhile.
        unsafe { self.as_ptr().read_volatile() }
    }

    #[inline(always)]
    fn write_once(&self, value: T) {
        // SAFETY: As in `read_once`.
        unsafe { self.as_ptr().write_volatile(value) }
    }
}
