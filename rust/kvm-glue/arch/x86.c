// SPDX-License-Identifier: GPL-2.0
/*
 * Access to KVM's own structures, for x86: the only file that includes KVM's private headers.
 *
 * The layouts fit, because only the kernel that a module was built for loads it.
 */
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/rcuwait.h>
#include <linux/sched/task.h>

#include "irq.h"
#include "lapic.h"
#include "vmx/vmx.h"

bool rust_helper_kvm_vcpu_has_pending_event(const struct file *file);
bool rust_helper_kvm_vcpu_yield_needs_interrupt(const struct file *file);
bool rust_helper_kvm_vcpu_is_callers(const struct file *file);
bool rust_helper_kvm_vcpu_completes_on_entry(const struct file *file);
bool rust_helper_kvm_vcpu_is_in_protected_mode(const struct file *file);
void rust_helper_kvm_vm_set_halt_poll(const struct file *file, bool override, unsigned int max_ns);
void rust_helper_kvm_vcpu_kick_task(const struct file *file, struct task_struct *task);
void rust_helper_kvm_vcpu_kick_last(const struct file *file);

/*
 * Returns kvm-intel's structure for the vCPU of an open file; NULL if another vendor's module has made the vCPU.
 *
 * A vendor's module embeds struct kvm_vcpu in a structure of its own, and is the owner of all of KVM's files
 * (kvm_init()). If it is built in, the files have no owner; then it is the module for this CPU, as KVM accepts no
 * other. A TDX vCPU, whose local APIC KVM cannot read, is embedded in another structure.
 */
static const struct vcpu_vmx *vcpu_vmx(const struct file *file)
{
#if IS_ENABLED(CONFIG_KVM_INTEL)
	const struct kvm_vcpu *vcpu = file->private_data;
	const struct module *vendor = file->f_op->owner;
	const bool intel = vendor ? !strcmp(vendor->name, "kvm_intel") : boot_cpu_has(X86_FEATURE_VMX);

	if (intel && !is_td(vcpu->kvm))
		return container_of_const(vcpu, struct vcpu_vmx, vcpu);
#endif
	return NULL;
}

/*
 * Returns whether the vCPU's local APIC has an interrupt that the vCPU would take now with interrupts on. Reads the
 * registers without a lock, and without updating PPR as KVM's kvm_apic_has_interrupt() does.
 *
 * With APICv an interrupt is posted to the vCPU's posted-interrupt descriptor; KVM moves it to IRR when it enters the
 * guest. The descriptor is read first, so that an interrupt which is moved meanwhile is found in at least one of the
 * two, or by the next call. Without APICv the descriptor is empty. With AVIC, CPUs and KVM write to IRR directly.
 */
static bool lapic_has_interrupt(const struct kvm_vcpu *vcpu, const struct vcpu_vmx *vmx)
{
	const struct kvm_lapic *apic = vcpu->arch.apic;

	if (!apic || !apic->regs || apic->guest_apic_protected)
		return false;
	for (int i = 7; i >= 0; i--) {
		u32 posted = vmx ? READ_ONCE(((const u32 *)vmx->vt.pi_desc.pir)[i]) : 0;
		u32 pending = posted | READ_ONCE(*(const u32 *)(apic->regs + APIC_IRR + 0x10 * i));

		if (pending) {
			u32 vector = 32 * i + __fls(pending);
			u32 priority = READ_ONCE(*(const u32 *)(apic->regs + APIC_PROCPRI));

			return (vector & 0xf0) > (priority & 0xf0);
		}
	}
	return false;
}

/*
 * Returns whether the timer of the vCPU's local APIC has expired unnoticed by KVM.
 *
 * An hrtimer makes KVM_REQ_UNBLOCK when it expires. But kvm-intel prefers VMX's preemption timer, which counts only in
 * the guest, and switches to an hrtimer when the vCPU halts. For a vCPU outside the guest only the deadline tells, a
 * value of the host's TSC.
 */
static bool lapic_timer_has_expired(const struct kvm_vcpu *vcpu, const struct vcpu_vmx *vmx)
{
	const struct kvm_lapic *apic = vcpu->arch.apic;

	return vmx && apic && READ_ONCE(apic->lapic_timer.hv_timer_in_use) && rdtsc() >= READ_ONCE(vmx->hv_deadline_tsc);
}

/* Returns whether the VM's PIC has an interrupt that the local APIC accepts, see KVM's kvm_apic_accept_pic_intr(). */
static bool pic_has_interrupt(const struct kvm_vcpu *vcpu)
{
#ifdef CONFIG_KVM_IOAPIC
	const struct kvm_pic *pic = READ_ONCE(vcpu->kvm->arch.vpic);
	const struct kvm_lapic *apic = vcpu->arch.apic;
	u32 lvt;

	if (!pic || !READ_ONCE(pic->output))
		return false;
	if (!apic || !apic->regs || !(vcpu->arch.apic_base & MSR_IA32_APICBASE_ENABLE))
		return true;
	lvt = READ_ONCE(*(const u32 *)(apic->regs + APIC_LVT0));
	return !(lvt & APIC_LVT_MASKED) && GET_APIC_DELIVERY_MODE(lvt) == APIC_MODE_EXTINT;
#else
	return false;
#endif
}

/*
 * Returns whether KVM has an event pending for the vCPU of an open file: an interrupt, an expired timer, an NMI, an
 * SMI, or INIT. Any context.
 *
 * KVM_REQ_EVENT does not count: KVM makes it for a pending interrupt, but also when it sees an EOI, as at each exit of
 * a guest with a paravirtual EOI. So the interrupt controllers are read instead.
 */
bool rust_helper_kvm_vcpu_has_pending_event(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;
	const struct vcpu_vmx *vmx = vcpu_vmx(file);
	const u64 events = BIT_ULL(KVM_REQ_UNBLOCK & KVM_REQUEST_MASK) | BIT_ULL(KVM_REQ_NMI & KVM_REQUEST_MASK) |
			   BIT_ULL(KVM_REQ_SMI & KVM_REQUEST_MASK);

	return READ_ONCE(vcpu->requests) & events || lapic_has_interrupt(vcpu, vmx) || lapic_timer_has_expired(vcpu, vmx) ||
	       pic_has_interrupt(vcpu) || (vcpu->arch.apic && READ_ONCE(vcpu->arch.apic->pending_events));
}

/*
 * Returns whether a spinning vCPU yields to the vCPU of an open file only if KVM sees an interrupt pending for the
 * latter. Called in the vCPU's thread while it is preempted, by a scheduler's callback that runs after KVM's own.
 *
 * These are the conditions of kvm_vcpu_on_spin(): a guest that spins exits (PLE); the vCPU was preempted in the guest's
 * user mode; and KVM can check for interrupts without loading the vCPU, which takes APICv or AVIC. KVM's callback has
 * just written preempted and preempted_in_kernel, as the notifier that was registered last is called first.
 */
bool rust_helper_kvm_vcpu_yield_needs_interrupt(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;

	return vcpu->preempted && !vcpu->arch.preempted_in_kernel && vcpu->arch.apic && vcpu->arch.apic->apicv_active &&
	       !kvm_pause_in_guest(vcpu->kvm);
}

/* Returns whether KVM lets the current task use the vCPU of an open file: the check that begins kvm_vcpu_ioctl(). */
bool rust_helper_kvm_vcpu_is_callers(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;

	return vcpu->kvm->mm == current->mm && !READ_ONCE(vcpu->kvm->vm_dead);
}

/*
 * Returns whether the next KVM_RUN completes the exit of the vCPU of an open file. Until then the vCPU is in the middle
 * of an instruction. Called by the thread that has run the vCPU, before another one can.
 */
bool rust_helper_kvm_vcpu_completes_on_entry(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;

	return READ_ONCE(vcpu->arch.complete_userspace_io);
}

/*
 * Returns whether the vCPU of an open file is in protected mode. The guest never owns this bit of CR0
 * (KVM_POSSIBLE_CR0_GUEST_BITS), so KVM's copy is valid. If the vCPU runs, the answer may be stale.
 */
bool rust_helper_kvm_vcpu_is_in_protected_mode(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;

	return READ_ONCE(vcpu->arch.cr0) & X86_CR0_PE;
}

/*
 * Sets the longest time that KVM polls before a halted vCPU of the VM of an open file sleeps: max_ns, or without
 * override KVM's parameter. This is KVM_CAP_HALT_POLL without an argument in user space, and can be undone, which that
 * cannot. The barrier pairs with smp_rmb() in kvm_vcpu_max_halt_poll_ns(), as in kvm_vm_ioctl_enable_cap_generic().
 */
void rust_helper_kvm_vm_set_halt_poll(const struct file *file, bool override, unsigned int max_ns)
{
	struct kvm *kvm = file->private_data;

	if (override) {
		WRITE_ONCE(kvm->max_halt_poll_ns, max_ns);
		smp_wmb();
	}
	WRITE_ONCE(kvm->override_halt_poll_ns, override);
}

/*
 * Makes KVM_RUN, in which the task runs the vCPU of an open file, return as for a signal. The caller keeps both alive.
 *
 * The barrier in rcuwait_wake_up() orders the flag before the mode. It pairs with KVM's between writing the mode and
 * checking for signals.
 */
void rust_helper_kvm_vcpu_kick_task(const struct file *file, struct task_struct *task)
{
	struct kvm_vcpu *vcpu = file->private_data;

	set_tsk_thread_flag(task, TIF_NOTIFY_SIGNAL);
	if (!rcuwait_wake_up(kvm_arch_vcpu_get_wait(vcpu)) && READ_ONCE(vcpu->mode) != OUTSIDE_GUEST_MODE)
		kick_process(task);
}

/* Does the same for the task that was the last to begin KVM_RUN on the vCPU, wherever it is now. Process context. */
void rust_helper_kvm_vcpu_kick_last(const struct file *file)
{
	struct kvm_vcpu *vcpu = file->private_data;
	struct task_struct *task;

	read_lock(&vcpu->pid_lock);
	task = get_pid_task(vcpu->pid, PIDTYPE_PID);
	read_unlock(&vcpu->pid_lock);
	if (!task)
		return;
	rust_helper_kvm_vcpu_kick_task(file, task);
	put_task_struct(task);
}
