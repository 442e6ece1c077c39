// SPDX-License-Identifier: GPL-2.0

//! CPUs, and the platform's IDs of them.
//!
//! C headers: [`include/linux/cpumask.h`](srctree/include/linux/cpumask.h),
//! [`arch/x86/include/asm/smp.h`](srctree/arch/x86/include/asm/smp.h)

use kernel::cpu::{
    nr_cpu_ids,
    CpuId, //
};

/// `BAD_APICID`.
const NO_APIC_ID: u32 = u32::MAX;

/// Returns the local APIC ID of a CPU, or `None` if it has not been plugged in yet.
///
/// Any context. The ID of a CPU that is online does not change.
pub fn apic_id(cpu: CpuId) -> Option<u32> {
    // SAFETY: It reads a per-CPU variable, which every possible CPU has. On x86 all IDs below
    // `nr_cpu_ids` are those of possible CPUs.
    let id = unsafe { crate::bindings::cpu_physical_id(cpu.as_u32()) };

    (id != NO_APIC_ID).then_some(id)
}

/// Returns the possible CPUs: all that can be online while this kernel runs.
pub fn possible_cpus() -> impl Iterator<Item = CpuId> {
    (0..nr_cpu_ids())
        // SAFETY: It reads a bit of a mask that has one for each CPU ID.
        .filter(|cpu| unsafe { crate::bindings::cpu_possible(*cpu) })
        .filter_map(CpuId::from_u32)
}

/// Returns whether a CPU is online. It stays so while the caller has interrupts off, as a CPU goes offline in
/// `stop_machine()`.
pub fn is_online(cpu: CpuId) -> bool {
    // SAFETY: It reads a bit of a mask that has one for each CPU ID.
    unsafe { crate::bindings::cpu_online(cpu.as_u32()) }
}

/// Returns whether a CPU handles an interrupt or softirqs, which may be outdated at once. Any context.
///
/// It reads a cache line that the CPU writes at each interrupt.
#[inline]
pub fn handles_interrupt(cpu: CpuId) -> bool {
    // SAFETY: As in `apic_id`.
    unsafe { crate::bindings::cpu_handles_interrupt(cpu.as_u32()) }
}

/// Returns whether CPUID says that this is a virtual machine.
pub fn has_hypervisor() -> bool {
    // SAFETY: It reads the boot CPU's features, which no longer change.
    unsafe { crate::bindings::has_hypervisor() }
}
