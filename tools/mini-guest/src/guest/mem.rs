// SPDX-License-Identifier: GPL-2.0 OR MIT

//! The memory functions that compiled code calls, and that the C library provides elsewhere.

use core::arch::asm;

/// Copies memory that does not overlap.
///
/// # Safety
///
/// As for C's `memcpy`.
#[no_mangle]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: By the function's contract. The direction flag is clear.
    unsafe {
        asm!(
            "rep movsb",
            inout("rdi") to => _,
            inout("rsi") from => _,
            inout("rcx") count => _,
            options(nostack, preserves_flags),
        )
    };
    to
}

/// Copies memory that may overlap.
///
/// # Safety
///
/// As for C's `memmove`.
#[no_mangle]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: What is overwritten has been read by then.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: By the function's contract. The copy goes from the end, and the direction flag is clear again afterwards.
    unsafe {
        asm!(
            "std",
            "rep movsb",
            "cld",
            inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _,
            inout("rcx") count => _,
            options(nostack),
        )
    };
    to
}

/// Fills memory.
///
/// # Safety
///
/// As for C's `memset`.
#[no_mangle]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: By the function's contract. The direction flag is clear.
    unsafe {
        asm!(
            "rep stosb",
            inout("rdi") to => _,
            inout("rcx") count => _,
            in("al") value as u8,
            options(nostack, preserves_flags),
        )
    };
    to
}

/// Compares memory.
///
/// # Safety
///
/// As for C's `memcmp`.
#[no_mangle]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
    for index in 0..count {
        // SAFETY: By the function's contract. Volatile, so that the loop is not compiled to a call of this function.
        let (one, other) = unsafe {
            (
                one.add(index).read_volatile(),
                other.add(index).read_volatile(),
            )
        };
        if one != other {
            return i32::from(one) - i32::from(other);
        }
    }
    0
}
