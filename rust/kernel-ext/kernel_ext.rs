// SPDX-License-Identifier: GPL-2.0

//! Extensions of the `kernel` crate for files, user memory, tasks, locks and softirqs.
//!
//! Each module is written as a patch to `rust/kernel` would be, and stays here until it is upstream.

#![deny(missing_docs)]

pub mod fs;
pub mod irq;
pub mod mm;
pub mod random;
pub mod sched;
pub mod sync;

/// C functions that `kernel::bindings` lacks; `rust_helper_*` are in `helpers.c`.
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
        // `include/linux/anon_inodes.h`
        pub(crate) fn anon_inode_getfile(
            name: *const c_char,
            fops: *const file_operations,
            private: *mut c_void,
            flags: c_int,
        ) -> *mut file;
        pub(crate) fn anon_inode_create_getfile(
            name: *const c_char,
            fops: *const file_operations,
            private: *mut c_void,
            flags: c_int,
            context: *const inode,
        ) -> *mut file;

        // `include/linux/sched/clock.h`
        pub(crate) fn local_clock() -> u64;

        // `include/linux/sched/stat.h`
        pub(crate) fn single_task_running() -> bool;

        // `include/linux/sched/signal.h`
        #[link_name = "rust_helper_fatal_signal_pending"]
        pub(crate) fn fatal_signal_pending() -> bool;

        // `include/linux/smp.h`
        pub(crate) fn kick_all_cpus_sync();

        // `include/linux/preempt.h`
        #[link_name = "rust_helper_in_interrupt"]
        pub(crate) fn in_interrupt() -> bool;

        // `include/linux/interrupt.h`
        #[link_name = "rust_helper_in_ksoftirqd"]
        pub(crate) fn in_ksoftirqd() -> bool;
        #[link_name = "rust_helper_tasklet_schedule"]
        pub(crate) fn tasklet_schedule(tasklet: *mut tasklet_struct);

        // `include/linux/vmalloc.h`
        pub(crate) fn vm_map_ram(pages: *mut *mut page, count: c_uint, node: c_int) -> *mut c_void;
        pub(crate) fn vm_unmap_ram(address: *const c_void, count: c_uint);
    }
}
