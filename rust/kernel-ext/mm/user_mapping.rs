// SPDX-License-Identifier: GPL-2.0

//! Mappings of our own in a process.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use core::ptr::null_mut;
use kernel::{
    bindings,
    ffi::c_ulong,
    fs::File,
    mm::Mm,
    page::page_align,
    prelude::*,
    sync::aref::ARef,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// `PROT_READ` and the others are the same for all of `uapi/asm-generic/mman-common.h`.
const PROT_READ: c_ulong = 0x1;
const PROT_WRITE: c_ulong = 0x2;
const MAP_SHARED: c_ulong = 0x01;
const MAP_PRIVATE: c_ulong = 0x02;
const MAP_ANONYMOUS: c_ulong = 0x20;

/// A mapping in a process that is there for the kernel's use.
///
/// It is for calls into parts of the kernel that take their arguments from user space, or that show
/// theirs there. The process can read and write the memory, and unmap it. Process context.
pub struct UserMapping {
    address: usize,
    size: usize,
    mm: ARef<Mm>,
}

impl UserMapping {
    /// Maps `size` bytes of memory, rounded up to whole pages, into the current process.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if the process may not have any more, and `EFAULT` if the task has no memory of its
    /// own.
    pub fn anonymous(size: usize) -> Result<Self> {
        Self::new(null_mut(), size, MAP_PRIVATE | MAP_ANONYMOUS)
    }

    /// Maps the first `size` bytes of `file`, rounded up to whole pages, into the current process.
    ///
    /// # Errors
    ///
    /// As for [`UserMapping::anonymous`], and what the file says.
    pub fn of(file: &File, size: usize) -> Result<Self> {
        Self::new(file.as_ptr(), size, MAP_SHARED)
    }

    fn new(file: *mut bindings::file, size: usize, flags: c_ulong) -> Result<Self> {
        let mm = (&**current!().mm().ok_or(EFAULT)?).into();
        let size = page_align(size).ok_or(EINVAL)?;
        let protection = PROT_READ | PROT_WRITE;

        // SAFETY: The file is valid for the duration of the call, or there is none. This is process
        // context.
        let address = unsafe { bindings::vm_mmap(file, 0, size, protection, flags, 0) };
        // The last addresses are errors, which fit.
        if address >= usize::MAX - bindings::MAX_ERRNO as usize {
            return Err(Error::from_errno(address as i32));
        }
        Ok(Self { address, size, mm })
    }

    /// Returns `size` bytes from `offset` on, if they are within the memory.
    ///
    /// To be used in the process that the memory is in.
    pub fn get(&self, offset: usize, size: usize) -> Option<UserSlice> {
        let end = offset.checked_add(size)?;
        (end <= self.size).then(|| UserSlice::new(UserPtr::from_addr(self.address + offset), size))
    }

    /// Returns the address of the byte at `offset`.
    pub fn address(&self, offset: usize) -> usize {
        self.address.wrapping_add(offset)
    }

    /// Returns whether the memory is in the current process.
    pub fn is_current(&self) -> bool {
        current!()
            .mm()
            .is_some_and(|mm| mm.as_raw() == self.mm.as_raw())
    }
}

impl Drop for UserMapping {
    fn drop(&mut self) {
        // Another process has no business there. The memory then goes with its own.
        if self.is_current() {
            // SAFETY: This is process context. If the process has put something else there, that is
            // what it gets for it.
            unsafe { bindings::vm_munmap(self.address, self.size) };
        }
    }
}
