// SPDX-License-Identifier: GPL-2.0 OR MIT

//! What differs by architecture, in the kernel: bits of a word, by one instruction where there is one.
//!
//! `Atomic` of the kernel crate has no operations on bits yet. This is the only file with `cfg(target_arch)`.

#[cfg(not(target_arch = "x86_64"))]
mod generic;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use generic::Bits;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::Bits;

/// Operations on a bit of a word, each a read-modify-write and a full barrier. Returns whether the bit was set before.
pub(crate) trait BitOps {
    /// Sets a bit, below 64.
    ///
    /// # Safety
    ///
    /// The pointer must be valid and aligned, and the word be accessed by atomic operations only.
    unsafe fn test_and_set(word: *mut u64, bit: u32) -> bool;

    /// Clears a bit, below 64.
    ///
    /// # Safety
    ///
    /// As for [`BitOps::test_and_set`].
    unsafe fn test_and_clear(word: *mut u64, bit: u32) -> bool;
}
