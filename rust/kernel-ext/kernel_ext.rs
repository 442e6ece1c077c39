// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate does not offer yet.
//!
//! Each module is written as a patch to `rust/kernel` would be, and stays here until there is one.

#![deny(missing_docs)]

pub mod anon_inode;
pub mod cdev;
mod fd;
pub mod file;
pub mod file_operations;
pub mod ioctl;

/// C functions that `kernel::bindings` does not declare.
mod bindings {
    use kernel::{
        bindings::{
            file,
            file_operations, //
        },
        ffi::{
            c_char,
            c_int,
            c_void, //
        }, //
    };

    #[expect(
        improper_ctypes,
        reason = "an empty `struct lock_class_key` is fine behind pointers"
    )]
    extern "C" {
        /// From `include/linux/anon_inodes.h`.
        pub(crate) fn anon_inode_getfile(
            name: *const c_char,
            fops: *const file_operations,
            private: *mut c_void,
            flags: c_int,
        ) -> *mut file;
    }
}
