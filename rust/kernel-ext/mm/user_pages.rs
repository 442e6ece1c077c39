// SPDX-License-Identifier: GPL-2.0

//! Pages of user space that the kernel shares for long.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)
//!
//! All of it is for process context, apart from accesses to the pages themselves.

use core::{
    ptr::NonNull,
    slice, //
};
use kernel::{
    bindings,
    error::to_result,
    ffi::{
        c_int,
        c_uint,
        c_ulong, //
    },
    mm::Mm,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::Atomic,
        Arc, //
    }, //
};

use crate::mm::revocable_pages::RevocablePages;

/// `NUMA_NO_NODE`.
const NO_NODE: c_int = -1;

/// Pages that count against the `RLIMIT_MEMLOCK` of a process.
///
/// # Invariants
///
/// `count` pages are accounted for in `mm`.
pub struct LockedPages {
    mm: ARef<Mm>,
    count: usize,
}

impl LockedPages {
    /// Charges the current process for `count` pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if its limit does not allow it, and `EFAULT` if the task has no memory of its own.
    pub fn charge(count: usize) -> Result<Self> {
        let mm: ARef<Mm> = (&**current!().mm().ok_or(EFAULT)?).into();

        // SAFETY: The memory descriptor is valid, and this is process context.
        to_result(unsafe { bindings::account_locked_vm(mm.as_raw(), count as c_ulong, true) })?;
        // INVARIANT: This has just been done.
        Ok(Self { mm, count })
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        // SAFETY: The reference keeps the memory descriptor, which is enough for its counter, and by
        // the type invariants so many pages are accounted for. This cannot fail.
        unsafe {
            bindings::account_locked_vm(self.mm.as_raw(), self.count as c_ulong, false);
        }
    }
}

/// Pages of a process that stay where they are.
///
/// # Invariants
///
/// This owns a pin of each of `pages`, which are valid.
struct Pinned {
    pages: KVec<*mut bindings::page>,
}

impl Pinned {
    fn new(address: usize, count: usize) -> Result<Self> {
        let len = c_int::try_from(count)?;
        let mut pages = KVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;

        // SAFETY: There is room for `count` pointers.
        let pinned = unsafe {
            bindings::pin_user_pages_fast(
                address as c_ulong,
                len,
                bindings::FOLL_WRITE | bindings::FOLL_LONGTERM,
                pages.as_mut_ptr(),
            )
        };
        let Ok(pinned) = usize::try_from(pinned) else {
            return Err(Error::from_errno(pinned));
        };
        // SAFETY: So many have been written, and they are no more than there was room for.
        unsafe { pages.inc_len(pinned) };
        // INVARIANT: They have just been pinned.
        let this = Self { pages };

        if pinned != count {
            return Err(EFAULT);
        }
        Ok(this)
    }

    fn count(&self) -> usize {
        self.pages.len()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let (pages, count) = (self.pages.as_mut_ptr(), self.pages.len() as c_ulong);

        // SAFETY: By the type invariants these are valid and pinned. Whoever had them may have
        // written to them.
        unsafe { bindings::unpin_user_pages_dirty_lock(pages, count, true) };
    }
}

/// Pages of a process, pinned, and mapped contiguously in the kernel.
///
/// The process keeps its mapping, and may write to the pages at any time, as may whoever it has
/// given them to, a virtual machine for example. They stay where they are until this is dropped,
/// even if the process unmaps them or ends. Who lets user space decide how many there are should
/// hold [`LockedPages`] for them.
///
/// # Invariants
///
/// `address` is the kernel's mapping of all of `pinned`. `window` shows them, and is closed first.
pub struct UserPages {
    address: NonNull<u8>,
    window: Arc<RevocablePages>,
    pinned: Pinned,
}

// SAFETY: Pages can be unmapped and unpinned by any task.
unsafe impl Send for UserPages {}
// SAFETY: A shared reference gives nothing but a raw pointer and a length.
unsafe impl Sync for UserPages {}

impl UserPages {
    /// Pins and maps `count` pages of the current process, from `address` on, for reading and
    /// writing.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: `address` is not that of a page, or there are no pages, or too many.
    /// - `EFAULT`: not all of it is memory that the process may write to and that may be pinned for
    ///   long.
    /// - `ENOMEM`: there is not enough memory.
    pub fn pin(address: usize, count: usize) -> Result<Self> {
        if address % PAGE_SIZE != 0 || count == 0 {
            return Err(EINVAL);
        }
        let mut pinned = Pinned::new(address, count)?;
        let (pages, count) = (pinned.pages.as_mut_ptr(), count as c_uint);

        // SAFETY: There are so many pages, which stay valid as long as they are pinned.
        let address = unsafe { crate::bindings::vm_map_ram(pages, count, NO_NODE) };
        let address = NonNull::new(address.cast()).ok_or(ENOMEM)?;
        // SAFETY: So many pages have just been mapped there, and stay until this is dropped. Without a
        // window nobody sees them.
        let window = unsafe { RevocablePages::new(address, pinned.count()) }.inspect_err(|_| {
            // SAFETY: They are not used any more.
            unsafe { crate::bindings::vm_unmap_ram(address.as_ptr().cast(), count) };
        })?;
        // INVARIANT: This has just been mapped.
        Ok(Self {
            address,
            window,
            pinned,
        })
    }

    /// Returns the window by which processes can map the pages, until it is closed.
    pub fn window(&self) -> &Arc<RevocablePages> {
        &self.window
    }

    /// Returns what begins at byte `offset`, `count` times, if it is all within the pages and
    /// aligned.
    ///
    /// Any context.
    #[inline]
    pub fn get<T: Shared>(&self, offset: usize, count: usize) -> Option<&[T]> {
        // SAFETY: The pages are mapped for as long as this is borrowed.
        unsafe { view(self.address, self.pinned.count() * PAGE_SIZE, offset, count) }
    }
}

impl Drop for UserPages {
    fn drop(&mut self) {
        let count = self.pinned.count() as c_uint;

        self.window.close();
        // SAFETY: By the type invariants this is what `vm_map_ram` returned for so many pages, which
        // are unpinned after this.
        unsafe { crate::bindings::vm_unmap_ram(self.address.as_ptr().cast(), count) };
    }
}

/// A page of a process, pinned, where the kernel has all memory mapped.
///
/// As [`UserPages`], but without a mapping of its own: whoever else uses the page in the kernel is
/// likely to use the same address.
///
/// # Invariants
///
/// `address` is where the kernel has the page of `pinned` mapped.
pub struct UserPage {
    address: NonNull<u8>,
    _pinned: Pinned,
}

// SAFETY: As for `UserPages`.
unsafe impl Send for UserPage {}
// SAFETY: As for `UserPages`.
unsafe impl Sync for UserPage {}

// Otherwise a page need not be mapped anywhere.
const _: () = assert!(cfg!(CONFIG_64BIT));

impl UserPage {
    /// Pins the page of the current process at `address`, for reading and writing.
    ///
    /// # Errors
    ///
    /// As for [`UserPages::pin`].
    pub fn pin(address: usize) -> Result<Self> {
        if address % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        let pinned = Pinned::new(address, 1)?;
        let page = *pinned.pages.first().ok_or(EFAULT)?;
        // SAFETY: The page is valid. On 64-bit machines all pages are mapped for good, and this only
        // says where.
        let address = unsafe { bindings::kmap_local_page(page) };

        // INVARIANT: It has just said so.
        Ok(Self {
            address: NonNull::new(address.cast()).ok_or(EFAULT)?,
            _pinned: pinned,
        })
    }

    /// Returns what begins at byte `offset`, `count` times, if it is all within the page and
    /// aligned. Any context.
    #[inline]
    pub fn get<T: Shared>(&self, offset: usize, count: usize) -> Option<&[T]> {
        // SAFETY: The page is pinned for as long as this is borrowed.
        unsafe { view(self.address, PAGE_SIZE, offset, count) }
    }
}

/// Returns `count` objects from `offset` on in memory of `size` bytes, if they fit and are aligned.
///
/// # Safety
///
/// The memory must begin with a page, and stay for `'a`.
#[inline]
unsafe fn view<'a, T: Shared>(
    address: NonNull<u8>,
    size: usize,
    offset: usize,
    count: usize,
) -> Option<&'a [T]> {
    let end = offset.checked_add(count.checked_mul(size_of::<T>())?)?;
    if end > size || offset % align_of::<T>() != 0 {
        return None;
    }

    // SAFETY: It is within the memory, which the caller vouches for, and aligned to all that a page
    // is. As for its contents, the trait says that everything goes.
    Some(unsafe { slice::from_raw_parts(address.as_ptr().add(offset).cast(), count) })
}

/// What can be shared with user space, which may write anything to it at any time.
///
/// # Safety
///
/// Nothing but atomics, of types of which every bit pattern is a valid value, and aligned to a page
/// at the most.
pub unsafe trait Shared: Sync {}

// SAFETY: It is an atomic integer.
unsafe impl Shared for Atomic<u32> {}
