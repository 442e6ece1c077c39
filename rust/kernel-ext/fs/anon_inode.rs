// SPDX-License-Identifier: GPL-2.0

//! Files on the shared anonymous inode, or on an anonymous inode of their own.
//!
//! C header: [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h)

use core::{
    marker::PhantomData,
    ptr::{
        null,
        null_mut,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::from_err_ptr,
    ffi::c_int,
    fs::File,
    prelude::*,
    sync::aref::ARef,
    types::ForeignOwnable, //
};

use crate::fs::file_operations::FileOperations;

/// A new file on an anonymous inode, without private data and without other references to it.
///
/// Creating one is all that can fail: [`AnonFile::with_data`] makes it usable.
///
/// # Invariants
///
/// The file has the operations `T`, null as its private data, and `file` is the only reference to
/// it.
pub struct AnonFile<T: FileOperations> {
    file: ARef<File>,
    _operations: PhantomData<fn(T)>,
}

impl<T: FileOperations> AnonFile<T> {
    /// Allocates a file that shows up as `anon_inode:NAME` in `/proc/PID/fd`.
    ///
    /// Only the access mode and `O_NONBLOCK` of `flags` are used.
    pub fn new(name: &CStr, flags: u32) -> Result<Self> {
        // SAFETY: `name` is copied, the table is static.
        let file = from_err_ptr(unsafe {
            crate::bindings::anon_inode_getfile(
                name.as_char_ptr(),
                T::table().as_ptr(),
                null_mut(),
                flags as c_int,
            )
        })?;
        // SAFETY: `anon_inode_getfile` has just made it.
        unsafe { Self::own(file) }
    }

    /// As [`AnonFile::new`], with an inode of its own.
    pub fn with_inode(name: &CStr, flags: u32) -> Result<Self> {
        // SAFETY: `name` is copied, the table is static.
        let file = from_err_ptr(unsafe {
            crate::bindings::anon_inode_create_getfile(
                name.as_char_ptr(),
                T::table().as_ptr(),
                null_mut(),
                flags as c_int,
                null(),
            )
        })?;
        // SAFETY: `anon_inode_create_getfile` has just made it.
        unsafe { Self::own(file) }
    }

    /// # Safety
    ///
    /// `file` must be the only reference to a new file with the operations `T`, and without private
    /// data.
    unsafe fn own(file: *mut bindings::file) -> Result<Self> {
        let file = NonNull::new(file).ok_or(ENOMEM)?.cast();

        // INVARIANT: By the safety requirements.
        Ok(Self {
            // SAFETY: By the safety requirements the reference is the caller's, which transfers it.
            file: unsafe { ARef::from_raw(file) },
            _operations: PhantomData,
        })
    }

    /// Returns the file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Sets the file's private data, and returns the file.
    pub fn with_data(self, data: T::Data) -> ARef<File> {
        let file: *mut bindings::file = self.file.as_ptr();

        // SAFETY: By the type invariants there is no other reference to the file, and no private
        // data to leak. The table's `release` takes over what is stored here.
        unsafe { (*file).private_data = data.into_foreign() };
        self.file
    }
}
