// SPDX-License-Identifier: GPL-2.0

//! Pages of user space that the kernel shares long-term.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)
//!
//! Process context, except for accesses to the pages.

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

/// A charge against the `RLIMIT_MEMLOCK` of a process.
///
/// # Invariants
///
/// `count` pages are charged to `mm`.
pub struct LockedPages {
    mm: ARef<Mm>,
    count: usize,
}

impl LockedPages {
    /// Charges the current process for `count` pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if its limit does not allow it, and `EFAULT` if the task has no address space.
    pub fn charge(count: usize) -> Result<Self> {
        let mm: ARef<Mm> = (&**current!().mm().ok_or(EFAULT)?).into();

        // SAFETY: The memory descriptor is valid, and this is process context.
        to_result(unsafe { bindings::account_locked_vm(mm.as_raw(), count as c_ulong, true) })?;
        // INVARIANT: Just charged.
        Ok(Self { mm, count })
    }
}

impl Drop for LockedPages {
    fn drop(&mut self) {
        // SAFETY: The reference keeps the memory descriptor, and by the type invariants so many
        // pages are charged to it. Uncharging cannot fail.
        unsafe {
            bindings::account_locked_vm(self.mm.as_raw(), self.count as c_ulong, false);
        }
    }
}

/// Pinned pages of a process.
///
/// # Invariants
///
/// `pages` are valid, and this owns a pin of each.
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
        // SAFETY: So many elements have been written, no more than there was room for.
        unsafe { pages.inc_len(pinned) };
        // INVARIANT: Just pinned.
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

        // SAFETY: By the type invariants these are valid and pinned. They may have been written to.
        unsafe { bindings::unpin_user_pages_dirty_lock(pages, count, true) };
    }
}

/// Pages of a process, pinned, and mapped contiguously in the kernel.
///
/// The process keeps its mapping and may write to the pages at any time, as may those that it shares
/// them with, such as a virtual machine. The pages stay until this is dropped, even if the process
/// unmaps them or ends. If user space chooses their number, callers should hold [`LockedPages`].
///
/// # Invariants
///
/// `address` is the kernel's mapping of all of `pinned`. `window` maps them into processes, and is
/// closed before the kernel's mapping is removed.
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
    /// Pins and maps `count` pages of the current process at `address`, for reading and writing.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: `address` is not aligned to a page, or `count` is 0 or too large.
    /// - `EFAULT`: some of it is not memory that the process may write to and that may be pinned
    ///   long-term.
    /// - `ENOMEM`.
    pub fn pin(address: usize, count: usize) -> Result<Self> {
        if address % PAGE_SIZE != 0 || count == 0 {
            return Err(EINVAL);
        }
        let mut pinned = Pinned::new(address, count)?;
        let (pages, count) = (pinned.pages.as_mut_ptr(), count as c_uint);

        // SAFETY: There are so many pages, which are valid as long as they are pinned.
        let address = unsafe { crate::bindings::vm_map_ram(pages, count, NO_NODE) };
        let address = NonNull::new(address.cast()).ok_or(ENOMEM)?;
        // SAFETY: So many pages have just been mapped there. They stay until `drop` has closed the
        // window, or until this has failed.
        let window = unsafe { RevocablePages::new(address, pinned.count()) }.inspect_err(|_| {
            // SAFETY: This undoes `vm_map_ram`. The mapping has no user.
            unsafe { crate::bindings::vm_unmap_ram(address.as_ptr().cast(), count) };
        })?;
        // INVARIANT: Just mapped.
        Ok(Self {
            address,
            window,
            pinned,
        })
    }

    /// Returns the object by which processes can map the pages until it is closed.
    pub fn window(&self) -> &Arc<RevocablePages> {
        &self.window
    }

    /// Returns `count` objects at byte `offset` if they are within the pages and aligned. Any
    /// context.
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

/// A pinned page of a process, at its address in the kernel's linear mapping.
///
/// As [`UserPages`], but without a mapping of its own: other users of the page in the kernel are
/// likely to use the same address.
///
/// # Invariants
///
/// `address` is that of the page of `_pinned` in the linear mapping.
pub struct UserPage {
    address: NonNull<u8>,
    _pinned: Pinned,
}

// SAFETY: As for `UserPages`.
unsafe impl Send for UserPage {}
// SAFETY: As for `UserPages`.
unsafe impl Sync for UserPage {}

// Otherwise a page may not be in the linear mapping.
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
        // SAFETY: The page is valid. On 64-bit machines all pages are in the linear mapping: this
        // only returns the address, and needs no counterpart.
        let address = unsafe { bindings::kmap_local_page(page) };

        // INVARIANT: This is the address there.
        Ok(Self {
            address: NonNull::new(address.cast()).ok_or(EFAULT)?,
            _pinned: pinned,
        })
    }

    /// Returns `count` objects at byte `offset` if they are within the page and aligned. Any context.
    #[inline]
    pub fn get<T: Shared>(&self, offset: usize, count: usize) -> Option<&[T]> {
        // SAFETY: The page is pinned for as long as this is borrowed.
        unsafe { view(self.address, PAGE_SIZE, offset, count) }
    }
}

/// Returns `count` objects at `offset` in memory of `size` bytes if they fit and are aligned.
///
/// # Safety
///
/// The memory must begin with a page, and stay valid for `'a`.
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

    // SAFETY: The objects are within the memory, which is valid by the safety requirements. They are
    // aligned: `offset` is, and so is the page, by the trait's requirements. By the same, any
    // contents are valid, and may change at any time.
    Some(unsafe { slice::from_raw_parts(address.as_ptr().add(offset).cast(), count) })
}

/// Types that can be shared with user space, which may write anything to them at any time.
///
/// # Safety
///
/// The type must consist of atomics only, for which every bit pattern is valid, and its alignment
/// must not exceed that of a page.
pub unsafe trait Shared: Sync {}

// SAFETY: It is an atomic integer.
unsafe impl Shared for Atomic<u32> {}
