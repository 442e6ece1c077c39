// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate does not offer yet.
//!
//! Each module is written as a patch to `rust/kernel` would be, and stays here until there is one.

#![deny(missing_docs)]

pub mod fs;
pub mod irq;
pub mod mm;
pub mod random;
pub mod sched;
pub mod sync;

/// C functions that `kernel::bindings` does not declare.
mod bindings {
    use kernel::{
        bindings::{
            file,
            file_operations,
            inode,
            page,
            tasklet_struct, //
        },
        ffi::{
            c_char,
            c_int,
            c_uint,
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

        /// From `include/linux/anon_inodes.h`.
        pub(crate) fn anon_inode_create_getfile(
            name: *const c_char,
            fops: *const file_operations,
            private: *mut c_void,
            flags: c_int,
            context: *const inode,
        ) -> *mut file;

        /// From `include/linux/sched/clock.h`.
        pub(crate) fn local_clock() -> u64;

        /// From `include/linux/sched/stat.h`.
        pub(crate) fn single_task_running() -> bool;

        /// From `helpers.c`.
        #[link_name = "rust_helper_fatal_signal_pending"]
        pub(crate) fn fatal_signal_pending() -> bool;

        /// From `include/linux/smp.h`.
        pub(crate) fn kick_all_cpus_sync();

        /// From `include/linux/preempt.h`.
        #[link_name = "rust_helper_in_interrupt"]
        pub(crate) fn in_interrupt() -> bool;

        /// From `helpers.c`.
        #[link_name = "rust_helper_in_ksoftirqd"]
        pub(crate) fn in_ksoftirqd() -> bool;

        /// From `include/linux/interrupt.h`.
        #[link_name = "rust_helper_tasklet_schedule"]
        pub(crate) fn tasklet_schedule(tasklet: *mut tasklet_struct);

        /// From `include/linux/vmalloc.h`.
        pub(crate) fn vm_map_ram(pages: *mut *mut page, count: c_uint, node: c_int) -> *mut c_void;

        /// From `include/linux/vmalloc.h`.
        pub(crate) fn vm_unmap_ram(address: *const c_void, count: c_uint);
    }
}
