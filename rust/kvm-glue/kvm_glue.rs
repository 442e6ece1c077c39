// SPDX-License-Identifier: GPL-2.0

//! Access to KVM's own structures.
//!
//! KVM exports no functions for this to other modules. Only this crate's C file, one per architecture in `arch/`,
//! includes KVM's private headers.

#![deny(missing_docs)]

mod arch;
mod files;
mod kicker;

pub use files::{
    VcpuFile,
    VmFile, //
};
pub use kicker::{
    Kicker,
    Running, //
};

/// The functions of the architecture's C file.
mod bindings {
    use kernel::{
        bindings::{
            file,
            task_struct, //
        },
        ffi::c_uint, //
    };

    #[expect(
        improper_ctypes,
        reason = "an empty `struct lock_class_key` is fine behind pointers"
    )]
    extern "C" {
        #[link_name = "rust_helper_kvm_vcpu_has_pending_event"]
        pub(crate) fn kvm_vcpu_has_pending_event(file: *const file) -> bool;
        #[link_name = "rust_helper_kvm_vcpu_yield_needs_interrupt"]
        pub(crate) fn kvm_vcpu_yield_needs_interrupt(file: *const file) -> bool;

        #[link_name = "rust_helper_kvm_vcpu_is_callers"]
        pub(crate) fn kvm_vcpu_is_callers(file: *const file) -> bool;

        #[link_name = "rust_helper_kvm_vcpu_completes_on_entry"]
        pub(crate) fn kvm_vcpu_completes_on_entry(file: *const file) -> bool;

        #[link_name = "rust_helper_kvm_vcpu_is_in_protected_mode"]
        pub(crate) fn kvm_vcpu_is_in_protected_mode(file: *const file) -> bool;

        #[link_name = "rust_helper_kvm_vm_set_halt_poll"]
        pub(crate) fn kvm_vm_set_halt_poll(file: *const file, overrides: bool, max_ns: c_uint);

        #[link_name = "rust_helper_kvm_vcpu_kick_task"]
        pub(crate) fn kvm_vcpu_kick_task(file: *const file, task: *mut task_struct);

        #[link_name = "rust_helper_kvm_vcpu_kick_last"]
        pub(crate) fn kvm_vcpu_kick_last(file: *const file);
    }
}
