// SPDX-License-Identifier: GPL-2.0

//! Mappings in a process for the kernel's own use.
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

// From `include/uapi/asm-generic/mman-common.h` and `include/uapi/linux/mman.h`.
const PROT_READ: c_ulong = 0x1;
const PROT_WRITE: c_ulong = 0x2;
const MAP_SHARED: c_ulong = 0x01;
const MAP_PRIVATE: c_ulong = 0x02;
const MAP_ANONYMOUS: c_ulong = 0x20;

/// A mapping in a process for the kernel's use.
///
/// It is for calls to parts of the kernel that take arguments from user space or share memory with
/// it. The process can read, write and unmap the memory. Process context.
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
    /// `ENOMEM` if the process may map no more, and `EFAULT` if the task has no address space.
    pub fn anonymous(size: usize) -> Result<Self> {
        Self::new(null_mut(), size, MAP_PRIVATE | MAP_ANONYMOUS)
    }

    /// Maps the first `size` bytes of `file`, rounded up to whole pages, into the current process.
    ///
    /// # Errors
    ///
    /// As for [`UserMapping::anonymous`], and those of the file's `mmap`.
    pub fn of(file: &File, size: usize) -> Result<Self> {
        Self::new(file.as_ptr(), size, MAP_SHARED)
    }

    fn new(file: *mut bindings::file, size: usize, flags: c_ulong) -> Result<Self> {
        let mm = (&**current!().mm().ok_or(EFAULT)?).into();
        let size = page_align(size).ok_or(EINVAL)?;
        let protection = PROT_READ | PROT_WRITE;

        // SAFETY: The file is null or valid for the duration of the call. This is process context.
        let address = unsafe { bindings::vm_mmap(file, 0, size, protection, flags, 0) };
        // The last addresses are negative error numbers, which an `i32` holds.
        if address >= usize::MAX - bindings::MAX_ERRNO as usize {
            return Err(Error::from_errno(address as i32));
        }
        Ok(Self { address, size, mm })
    }

    /// Returns `size` bytes at `offset` if they are within the mapping. They may only be used in the
    /// process that has the mapping.
    pub fn get(&self, offset: usize, size: usize) -> Option<UserSlice> {
        let end = offset.checked_add(size)?;
        (end <= self.size).then(|| UserSlice::new(UserPtr::from_addr(self.address + offset), size))
    }

    /// Returns the address of the byte at `offset`.
    pub fn address(&self, offset: usize) -> usize {
        self.address.wrapping_add(offset)
    }

    /// Returns whether the mapping is in the current process.
    pub fn is_current(&self) -> bool {
        current!()
            .mm()
            .is_some_and(|mm| mm.as_raw() == self.mm.as_raw())
    }
}

impl Drop for UserMapping {
    fn drop(&mut self) {
        // Another process cannot unmap it: it then stays until its own process ends.
        if self.is_current() {
            // SAFETY: This is process context. If the process has mapped something else there, it
            // loses only that.
            unsafe { bindings::vm_munmap(self.address, self.size) };
        }
    }
}
