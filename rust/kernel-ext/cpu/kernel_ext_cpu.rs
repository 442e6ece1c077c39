// SPDX-License-Identifier: GPL-2.0

//! Extensions of the `kernel` crate for code that belongs to CPUs rather than to files.
//!
//! Each module is written as a patch to `rust/kernel` would be, and stays here until it is upstream.
//! It is a crate apart from `kernel_ext`, as a module in a guest needs only this one, and must load
//! in kernels that lack what the other one needs.

#![deny(missing_docs)]

pub mod clock;
pub mod cpu_timer;
pub mod cpuidle;
pub mod hotplug;
pub mod ipi;
pub mod kvm;
pub mod local_counter;
pub mod memory;
pub mod port_io;
// Shared with `kernel_ext`.
#[path = "../sync/read_once.rs"]
pub mod read_once;
pub mod system;
pub mod topology;

/// C functions of `helpers.c`, for what `kernel::bindings` lacks.
mod bindings {
    use kernel::ffi::{
        c_uint,
        c_ulong,
        c_void, //
    };

    extern "C" {
        #[link_name = "rust_helper_cpu_physical_id"]
        pub(crate) fn cpu_physical_id(cpu: c_uint) -> u32;

        #[link_name = "rust_helper_cpu_possible"]
        pub(crate) fn cpu_possible(cpu: c_uint) -> bool;

        #[link_name = "rust_helper_cpu_handles_interrupt"]
        pub(crate) fn cpu_handles_interrupt(cpu: c_uint) -> bool;

        #[link_name = "rust_helper_cpu_online"]
        pub(crate) fn cpu_online(cpu: c_uint) -> bool;

        #[link_name = "rust_helper_apic_send"]
        pub(crate) fn apic_send(cpu: c_uint, vector: u8);

        #[link_name = "rust_helper_has_hypervisor"]
        pub(crate) fn has_hypervisor() -> bool;

        #[link_name = "rust_helper_has_encrypted_memory"]
        pub(crate) fn has_encrypted_memory() -> bool;

        #[link_name = "rust_helper_kvm_has_sched_yield"]
        pub(crate) fn kvm_has_sched_yield() -> bool;

        #[link_name = "rust_helper_kvm_yield_to"]
        pub(crate) fn kvm_yield_to(apic_id: u32);

        #[link_name = "rust_helper_virt_to_phys"]
        pub(crate) fn virt_to_phys(address: *const c_void) -> c_ulong;
    }
}
