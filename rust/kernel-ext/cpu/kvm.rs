// SPDX-License-Identifier: GPL-2.0

//! What a guest can ask of KVM.
//!
//! C headers: [`arch/x86/include/asm/kvm_para.h`](srctree/arch/x86/include/asm/kvm_para.h),
//! [`include/uapi/linux/kvm_para.h`](srctree/include/uapi/linux/kvm_para.h)

use kernel::cpu::CpuId;

use crate::topology::apic_id;

/// Returns whether this kernel makes room for preempted vCPUs that it waits for: where KVM offers it,
/// and does not say that vCPUs are never preempted.
pub fn has_sched_yield() -> bool {
    // SAFETY: It reads what CPUID says.
    unsafe { crate::bindings::kvm_has_sched_yield() }
}

/// Lets the host run the vCPU of `target` in place of the current one, if it waits for a CPU. Where
/// [`has_sched_yield`] says that this can be asked for. Returns whether it was. Any context.
pub fn yield_to(target: CpuId) -> bool {
    let id = apic_id(target);

    if let Some(id) = id {
        // SAFETY: The hypercall has no effect on memory.
        unsafe { crate::bindings::kvm_yield_to(id) };
    }
    id.is_some()
}
