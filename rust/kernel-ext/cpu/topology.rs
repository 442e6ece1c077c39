// SPDX-License-Identifier: GPL-2.0

//! Which CPUs there are, and what the platform calls them.
//!
//! C headers: [`include/linux/cpumask.h`](srctree/include/linux/cpumask.h),
//! [`arch/x86/include/asm/smp.h`](srctree/arch/x86/include/asm/smp.h)

use kernel::cpu::{
    nr_cpu_ids,
    CpuId, //
};

/// `BAD_APICID`.
const NO_APIC_ID: u32 = u32::MAX;

/// Returns the local APIC ID of a CPU, unless it has not been plugged in yet.
///
/// Any context. The ID of a CPU that is online does not change.
pub fn apic_id(cpu: CpuId) -> Option<u32> {
    // SAFETY: It reads a per-CPU variable, which every possible CPU has, and others share CPU 0's.
    let id = unsafe { crate::bindings::cpu_physical_id(cpu.as_u32()) };

    (id != NO_APIC_ID).then_some(id)
}

/// Returns the CPUs that there can ever be while this kernel runs.
pub fn possible_cpus() -> impl Iterator<Item = CpuId> {
    (0..nr_cpu_ids())
        // SAFETY: It reads a mask that has a bit for each CPU ID.
        .filter(|cpu| unsafe { crate::bindings::cpu_possible(*cpu) })
        .filter_map(CpuId::from_u32)
}

/// Returns whether a CPU is online. It stays so while the caller has interrupts off, as a CPU goes when all have stopped.
pub fn is_online(cpu: CpuId) -> bool {
    // SAFETY: It reads a bit of a mask that has one for each CPU ID.
    unsafe { crate::bindings::cpu_online(cpu.as_u32()) }
}

/// Returns whether a CPU handles an interrupt or softirqs, as of just now. Any context.
///
/// It reads a line that the CPU writes at each interrupt.
#[inline]
pub fn handles_interrupt(cpu: CpuId) -> bool {
    // SAFETY: It reads a per-CPU variable, which every possible CPU has, and others share CPU 0's.
    unsafe { crate::bindings::cpu_handles_interrupt(cpu.as_u32()) }
}

/// Returns whether the CPUs say that they are those of a virtual machine.
pub fn has_hypervisor() -> bool {
    // SAFETY: The boot CPU's features do not change any more.
    unsafe { crate::bindings::has_hypervisor() }
}
