// SPDX-License-Identifier: GPL-2.0
/* Macros and inline functions that kernel::bindings lacks, wrapped for Rust as in rust/helpers. */
#include <linux/cc_platform.h>
#include <linux/cpumask.h>
#include <linux/io.h>
#include <linux/kvm_para.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/smp.h>
#include <asm/apic.h>
#include <asm/cpufeature.h>
#include <asm/cpuid/api.h>

u32 rust_helper_cpu_physical_id(unsigned int cpu);
bool rust_helper_cpu_possible(unsigned int cpu);
bool rust_helper_cpu_online(unsigned int cpu);
bool rust_helper_cpu_handles_interrupt(unsigned int cpu);
void rust_helper_apic_send(unsigned int cpu, u8 vector);
bool rust_helper_has_hypervisor(void);
bool rust_helper_has_encrypted_memory(void);
unsigned long rust_helper_virt_to_phys(const void *address);
bool rust_helper_kvm_has_sched_yield(void);
void rust_helper_kvm_yield_to(u32 apic_id);

u32 rust_helper_cpu_physical_id(unsigned int cpu)
{
	return cpu_physical_id(cpu);
}

bool rust_helper_cpu_possible(unsigned int cpu)
{
	return cpu_possible(cpu);
}

bool rust_helper_cpu_online(unsigned int cpu)
{
	return cpu_online(cpu);
}

/* hardirq_count() or in_serving_softirq(), of any CPU. */
bool rust_helper_cpu_handles_interrupt(unsigned int cpu)
{
	return READ_ONCE(per_cpu(__preempt_count, cpu)) & (HARDIRQ_MASK | SOFTIRQ_OFFSET);
}

void rust_helper_apic_send(unsigned int cpu, u8 vector)
{
	apic->send_IPI(cpu, vector);
}

bool rust_helper_has_hypervisor(void)
{
	return boot_cpu_has(X86_FEATURE_HYPERVISOR);
}

bool rust_helper_has_encrypted_memory(void)
{
	return cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT);
}

unsigned long rust_helper_virt_to_phys(const void *address)
{
	return virt_to_phys((void *)address);
}

/* As pv_sched_yield_supported() in arch/x86/kernel/kvm.c, but kvm_arch_para_features() is not exported to modules. */
bool rust_helper_kvm_has_sched_yield(void)
{
	const u32 wanted = BIT(KVM_FEATURE_PV_SCHED_YIELD) | BIT(KVM_FEATURE_STEAL_TIME);
	u32 base;

	if (!kvm_para_available() || kvm_para_has_hint(KVM_HINTS_REALTIME) || boot_cpu_has(X86_FEATURE_MWAIT))
		return false;
	base = cpuid_base_hypervisor(KVM_SIGNATURE, 0);
	return base && (cpuid_eax(base | KVM_CPUID_FEATURES) & wanted) == wanted;
}

void rust_helper_kvm_yield_to(u32 apic_id)
{
	kvm_hypercall1(KVM_HC_SCHED_YIELD, apic_id);
}
