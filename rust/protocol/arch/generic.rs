// SPDX-License-Identifier: GPL-2.0 OR MIT

//! Other architectures: the kernel's `atomic64_t`. On arm64 with LSE each operation is one instruction.

use kernel::bindings;

use super::BitOps;

pub(crate) enum Bits {}

impl BitOps for Bits {
    #[inline]
    unsafe fn test_and_set(word: *mut u64, bit: u32) -> bool {
        let mask: u64 = 1 << bit;
        // SAFETY: By the safety requirements, and as an `atomic64_t` is one `s64`. The casts keep all bits.
        let before = unsafe { bindings::atomic64_fetch_or(mask as i64, word.cast()) };

        before as u64 & mask != 0
    }

    #[inline]
    unsafe fn test_and_clear(word: *mut u64, bit: u32) -> bool {
        let mask: u64 = 1 << bit;
        // SAFETY: As in `test_and_set`.
        let before = unsafe { bindings::atomic64_fetch_and(!mask as i64, word.cast()) };

        before as u64 & mask != 0
    }
}
