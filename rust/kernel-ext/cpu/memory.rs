// SPDX-License-Identifier: GPL-2.0

//! Memory that the kernel shares with its host.
//!
//! C headers: [`include/linux/gfp.h`](srctree/include/linux/gfp.h),
//! [`arch/x86/include/asm/io.h`](srctree/arch/x86/include/asm/io.h)

use core::{
    mem::{
        align_of,
        size_of, //
    },
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
    slice, //
};
use kernel::{
    bindings,
    page::PAGE_SIZE,
    prelude::*, //
};

/// An array in pages of its own, in which the kernel has nothing else. They are zero after its end.
///
/// # Invariants
///
/// `elements` points to `len` elements, in `size` bytes that came from `alloc_pages_exact()`.
pub struct PageArray<T> {
    elements: NonNull<T>,
    len: usize,
    size: usize,
    /// Whether the memory is never freed.
    kept: bool,
}

// SAFETY: It owns its elements.
unsafe impl<T: Send> Send for PageArray<T> {}
// SAFETY: As above.
unsafe impl<T: Sync> Sync for PageArray<T> {}

impl<T> PageArray<T> {
    const FITS: () = assert!(align_of::<T>() <= PAGE_SIZE && size_of::<T>() > 0);

    /// Makes an array of `len` elements, each of which `make` returns. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, also if there are not so many contiguous pages.
    pub fn new(len: usize, mut make: impl FnMut() -> T) -> Result<Self> {
        let () = Self::FITS;
        let size = len
            .max(1)
            .checked_mul(size_of::<T>())
            .and_then(|size| size.checked_next_multiple_of(PAGE_SIZE))
            .ok_or(ENOMEM)?;
        // SAFETY: The only requirement is that this may sleep.
        let pages = unsafe {
            bindings::alloc_pages_exact_noprof(size, bindings::GFP_KERNEL | bindings::__GFP_ZERO)
        };
        let elements = NonNull::new(pages.cast::<T>()).ok_or(ENOMEM)?;

        for index in 0..len {
            // SAFETY: There is room for so many elements, which are aligned, as pages are.
            unsafe { elements.add(index).write(make()) };
        }
        // INVARIANT: Just allocated and filled.
        Ok(Self {
            elements,
            len,
            size,
            kept: false,
        })
    }

    /// Returns the physical address of the elements, which are physically contiguous.
    pub fn physical_address(&self) -> u64 {
        // SAFETY: Memory of the page allocator is in the kernel's linear mapping.
        let address = unsafe { crate::bindings::virt_to_phys(self.elements.as_ptr().cast()) };

        address as u64
    }

    /// Leaks the memory: it is not freed when this is dropped.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl<T> Deref for PageArray<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: By the type invariants there are so many elements.
        unsafe { slice::from_raw_parts(self.elements.as_ptr(), self.len) }
    }
}

impl<T> Drop for PageArray<T> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let elements = self.elements.as_ptr();
        // SAFETY: By the type invariants this owns the elements and their memory, and nothing uses them any more.
        unsafe {
            ptr::drop_in_place(ptr::slice_from_raw_parts_mut(elements, self.len));
            bindings::free_pages_exact(elements.cast(), self.size);
        }
    }
}

/// Returns whether this guest's memory is encrypted, so that its host cannot read it.
pub fn is_encrypted() -> bool {
    // SAFETY: It may be called in any context, and reads what is set at boot.
    unsafe { crate::bindings::has_encrypted_memory() }
}
