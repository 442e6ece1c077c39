// SPDX-License-Identifier: GPL-2.0

//! KVM's hypercall for directed yields.
//!
//! C headers: [`arch/x86/include/asm/kvm_para.h`](srctree/arch/x86/include/asm/kvm_para.h),
//! [`include/uapi/linux/kvm_para.h`](srctree/include/uapi/linux/kvm_para.h)

use kernel::cpu::CpuId;

use crate::topology::apic_id;

/// Returns whether this kernel yields to preempted vCPUs that it waits for: KVM offers that, and does
/// not hint that vCPUs are never preempted.
pub fn has_sched_yield() -> bool {
    // SAFETY: It reads CPUID.
    unsafe { crate::bindings::kvm_has_sched_yield() }
}

/// Asks the host to run the vCPU of `target` in place of the current one, if it waits for a CPU, and
/// returns whether `target` has an APIC ID to ask for. Needs [`has_sched_yield`]. Any context.
pub fn yield_to(target: CpuId) -> bool {
    let id = apic_id(target);

    if let Some(id) = id {
        // SAFETY: The hypercall has no effect on memory.
        unsafe { crate::bindings::kvm_yield_to(id) };
    }
    id.is_some()
}
