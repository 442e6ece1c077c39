// SPDX-License-Identifier: GPL-2.0

//! Random numbers.
//!
//! C header: [`include/linux/random.h`](srctree/include/linux/random.h)

use kernel::bindings;

/// Returns a random number, as `get_random_u32()` does. Any context.
pub fn random_u32() -> u32 {
    // SAFETY: It is callable in any context.
    unsafe { bindings::get_random_u32() }
}
