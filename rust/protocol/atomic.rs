// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The atomic operations of the protocol, and their implementations.
//!
//! The algorithm is written once, with these names. In the kernel they are the kernel's, whose memory model is LKMM; in
//! guests and tools they are `core`'s; under `--cfg loom` they are the model checker's.
//!
//! | here                       | in the kernel            | `core`                   | loom            |
//! |----------------------------|--------------------------|--------------------------|-----------------|
//! | `load`, `store`            | `READ_ONCE`/`WRITE_ONCE` | `Relaxed`                | `Relaxed`       |
//! | `test_and_set`, `…_clear`  | `arch::Bits`             | `AcqRel`                 | `AcqRel`        |
//! | `swap`                     | `atomic64_xchg`          | `AcqRel`                 | `AcqRel`        |
//! | [`full_barrier_after_rmw`] | nothing                  | `fence(SeqCst)`          | `fence(SeqCst)` |
//! | [`full_barrier`]           | `smp_mb`                 | `fence(SeqCst)`          | `fence(SeqCst)` |
//!
//! In LKMM a read-modify-write that returns a value is fully ordered. The protocol needs less: acquire and release from
//! the operation itself, and a full barrier after the one by which a sender sets its bit, which has its own name here.
//! loom treats only fences as sequentially consistent, so models that pass rely on nothing else.
//!
//! # Pairing
//!
//! The sender's [`full_barrier_after_rmw`] (set the bit, barrier, read the states) pairs with the owner's [`full_barrier`]
//! (write the state, barrier, read the bits). The release of each `test_and_set` pairs with the acquire of the `swap` or
//! `test_and_clear` that takes the bit.

pub(crate) use backend::*;

/// Makes a function `const`, except with loom, whose atomics cannot be made in constants.
macro_rules! const_unless_loom {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        $(#[$attribute])*
        #[cfg(not(loom))]
        $visibility const fn $($rest)*

        $(#[$attribute])*
        #[cfg(loom)]
        $visibility fn $($rest)*
    };
}
pub(crate) use const_unless_loom;

#[cfg(MODULE)]
mod backend {
    use kernel::sync::{
        atomic::{
            Atomic,
            Full, //
        },
        barrier, //
    };

    use crate::arch::{
        BitOps,
        Bits, //
    };

    /// A word that is loaded and stored only.
    #[repr(transparent)]
    #[derive(Debug)]
    pub(crate) struct AtomicU32(Atomic<u32>);

    impl AtomicU32 {
        pub(crate) const fn new(value: u32) -> Self {
            Self(Atomic::new(value))
        }

        #[inline]
        pub(crate) fn load(&self) -> u32 {
            // SAFETY: The pointer is valid and aligned. A relaxed load is `READ_ONCE()`; the kernel crate's is a call
            // to C.
            unsafe { self.0.as_ptr().read_volatile() }
        }

        #[inline]
        pub(crate) fn store(&self, value: u32) {
            // SAFETY: As in `load`.
            unsafe { self.0.as_ptr().write_volatile(value) }
        }
    }

    /// A word of bits or a counter.
    #[repr(transparent)]
    #[derive(Debug)]
    pub(crate) struct AtomicU64(Atomic<u64>);

    impl AtomicU64 {
        pub(crate) const fn new(value: u64) -> Self {
            Self(Atomic::new(value))
        }

        #[inline]
        pub(crate) fn load(&self) -> u64 {
            // SAFETY: As for [`AtomicU32`].
            unsafe { self.0.as_ptr().read_volatile() }
        }

        #[inline]
        pub(crate) fn store(&self, value: u64) {
            // SAFETY: As for [`AtomicU32`].
            unsafe { self.0.as_ptr().write_volatile(value) }
        }

        #[inline]
        pub(crate) fn swap(&self, value: u64) -> u64 {
            self.0.xchg(value, Full)
        }

        /// Sets the bit number `bit`, below 64. Returns whether it was set before.
        #[inline]
        pub(crate) fn test_and_set(&self, bit: u32) -> bool {
            // SAFETY: The pointer is valid and aligned, and the word is atomic.
            unsafe { Bits::test_and_set(self.0.as_ptr(), bit) }
        }

        /// Clears the bit number `bit`, below 64. Returns whether it was set before.
        #[inline]
        pub(crate) fn test_and_clear(&self, bit: u32) -> bool {
            // SAFETY: As in `test_and_set`.
            unsafe { Bits::test_and_clear(self.0.as_ptr(), bit) }
        }
    }

    /// Orders all accesses before it against all accesses after it.
    #[inline]
    pub(crate) fn full_barrier() {
        barrier::smp_mb(barrier::Full);
    }

    /// Is a full barrier directly after a read-modify-write, which is one itself in the kernel.
    #[inline]
    pub(crate) fn full_barrier_after_rmw() {}
}

#[cfg(not(MODULE))]
mod backend {
    #[cfg(not(loom))]
    use core::sync::atomic;
    #[cfg(loom)]
    use loom::sync::atomic;

    use atomic::{
        fence,
        Ordering::{
            AcqRel,
            Relaxed,
            SeqCst, //
        }, //
    };

    use super::const_unless_loom;

    /// A word that is loaded and stored only.
    #[repr(transparent)]
    #[derive(Debug)]
    pub(crate) struct AtomicU32(atomic::AtomicU32);

    impl AtomicU32 {
        const_unless_loom! {
            pub(crate) fn new(value: u32) -> Self {
                Self(atomic::AtomicU32::new(value))
            }
        }

        #[inline]
        pub(crate) fn load(&self) -> u32 {
            self.0.load(Relaxed)
        }

        #[inline]
        pub(crate) fn store(&self, value: u32) {
            self.0.store(value, Relaxed)
        }
    }

    /// A word of bits or a counter.
    #[repr(transparent)]
    #[derive(Debug)]
    pub(crate) struct AtomicU64(atomic::AtomicU64);

    impl AtomicU64 {
        const_unless_loom! {
            pub(crate) fn new(value: u64) -> Self {
                Self(atomic::AtomicU64::new(value))
            }
        }

        #[inline]
        pub(crate) fn load(&self) -> u64 {
            self.0.load(Relaxed)
        }

        #[inline]
        pub(crate) fn store(&self, value: u64) {
            self.0.store(value, Relaxed)
        }

        #[inline]
        pub(crate) fn swap(&self, value: u64) -> u64 {
            self.0.swap(value, AcqRel)
        }

        /// Sets the bit number `bit`, below 64. Returns whether it was set before.
        #[inline]
        pub(crate) fn test_and_set(&self, bit: u32) -> bool {
            let mask = 1 << bit;

            self.0.fetch_or(mask, AcqRel) & mask != 0
        }

        /// Clears the bit number `bit`, below 64. Returns whether it was set before.
        #[inline]
        pub(crate) fn test_and_clear(&self, bit: u32) -> bool {
            let mask = 1 << bit;

            self.0.fetch_and(!mask, AcqRel) & mask != 0
        }
    }

    /// Orders all accesses before it against all accesses after it.
    #[inline]
    pub(crate) fn full_barrier() {
        fence(SeqCst);
    }

    /// Is a full barrier directly after a read-modify-write. In Rust's memory model that needs a fence, even if the
    /// operation is sequentially consistent.
    #[inline]
    pub(crate) fn full_barrier_after_rmw() {
        fence(SeqCst);
    }
}
