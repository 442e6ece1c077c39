// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The architecture's bit operations, for the kernel, whose `Atomic` has none yet.
//!
//! This is the only file with `cfg(target_arch)`.

#[cfg(not(target_arch = "x86_64"))]
mod generic;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use generic::Bits;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::Bits;

/// Bit operations, each of which is fully ordered and returns whether the bit was set before.
pub(crate) trait BitOps {
    /// Sets the bit number `bit`, below 64.
    ///
    /// # Safety
    ///
    /// The pointer must be valid and aligned, and the word accessed by atomic operations only.
    unsafe fn test_and_set(word: *mut u64, bit: u32) -> bool;

    /// Clears the bit number `bit`, below 64.
    ///
    /// # Safety
    ///
    /// As for [`BitOps::test_and_set`].
    unsafe fn test_and_clear(word: *mut u64, bit: u32) -> bool;
}
