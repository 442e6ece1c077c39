// SPDX-License-Identifier: GPL-2.0

//! Memory that somebody outside of the kernel shares.
//!
//! C header: [`arch/x86/include/asm/io.h`](srctree/arch/x86/include/asm/io.h)

use kernel::prelude::*;

/// Returns the physical address of the elements of `array`, which follow each other there, too.
pub fn physical_address<T>(array: &KVec<T>) -> u64 {
    // SAFETY: What `kmalloc` gives is in the kernel's linear mapping.
    let address = unsafe { crate::bindings::virt_to_phys(array.as_ptr().cast()) };

    address as u64
}

/// Returns whether the kernel's memory is encrypted, so that nobody outside can share it.
pub fn is_encrypted() -> bool {
    // SAFETY: It is callable in any context, and reads what is known since boot.
    unsafe { crate::bindings::has_encrypted_memory() }
}
