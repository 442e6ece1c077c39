// SPDX-License-Identifier: GPL-2.0 OR MIT

//! x86: `lock bts` and `lock btr`, as in `arch/x86/include/asm/bitops.h`. A read-modify-write that returns the whole word
//! is a loop.

use core::arch::asm;

use super::BitOps;

pub(crate) enum Bits {}

impl BitOps for Bits {
    #[inline]
    unsafe fn test_and_set(word: *mut u64, bit: u32) -> bool {
        let before: u8;
        // SAFETY: By the safety requirements, and the bit is in the word that the pointer points to.
        unsafe {
            asm!("lock bts qword ptr [{word}], {bit}", "setc {before}", word = in(reg) word,
                bit = in(reg) u64::from(bit % u64::BITS), before = out(reg_byte) before, options(nostack))
        };
        before != 0
    }

    #[inline]
    unsafe fn test_and_clear(word: *mut u64, bit: u32) -> bool {
        let before: u8;
        // SAFETY: As in `test_and_set`.
        unsafe {
            asm!("lock btr qword ptr [{word}], {bit}", "setc {before}", word = in(reg) word,
                bit = in(reg) u64::from(bit % u64::BITS), before = out(reg_byte) before, options(nostack))
        };
        before != 0
    }
}
