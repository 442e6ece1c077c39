// SPDX-License-Identifier: GPL-2.0
/*
 * KVM's own structures, for x86: the only file that includes KVM's private headers.
 *
 * The layouts fit because a module is loaded only by the kernel that it was built for.
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
 * What kvm-intel knows of the vCPU of an open file; NULL if another vendor's module has made the vCPU.
 *
 * struct kvm_vcpu is embedded in a structure of the vendor's module, which is the owner of all of KVM's files (kvm_init()).
 * If that is built in, there is no owner. Then it is the one for this CPU, as KVM takes no other. A vCPU whose local APIC KVM
 * does not see (TDX) is in another structure.
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
 * Whether the vCPU's local APIC has an interrupt that the vCPU could take now if it had interrupts on, by the registers as they
 * are: kvm_apic_has_interrupt() is KVM's own.
 *
 * With APICv an interrupt is posted to the vCPU's descriptor, from where KVM moves it to the register IRR when it enters the
 * guest. The descriptor is read first: what is moved meanwhile is seen in at least one of the two, or by the next look. Without
 * APICv the descriptor is empty. (AVIC has no such place: senders, be they CPUs or KVM, write to IRR.)
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
 * Whether the timer of the vCPU's local APIC has expired without KVM's having seen it.
 *
 * Mostly it is an hrtimer, whose function makes KVM_REQ_UNBLOCK. But kvm-intel prefers VMX's preemption timer, which counts
 * in the guest only, and goes over to an hrtimer when the vCPU halts. For a vCPU that is not in KVM_RUN there is nothing but
 * the deadline, in terms of the host's TSC.
 */
static bool lapic_timer_has_expired(const struct kvm_vcpu *vcpu, const struct vcpu_vmx *vmx)
{
	const struct kvm_lapic *apic = vcpu->arch.apic;

	return vmx && apic && READ_ONCE(apic->lapic_timer.hv_timer_in_use) && rdtsc() >= READ_ONCE(vmx->hv_deadline_tsc);
}

/* Whether the VM's PIC has an interrupt, and the vCPU's local APIC lets it through: kvm_apic_accept_pic_intr() is KVM's own. */
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
 * Whether KVM has something for the vCPU of an open file: an interrupt, a timer, an NMI, an SMI, or INIT.
 *
 * KVM_REQ_EVENT says that there may be an interrupt, but also that there was one whose end KVM has just seen, as after each exit
 * of a guest with a paravirtual EOI. So it does not count, and the interrupt controllers are looked at.
 */
bool rust_helper_kvm_vcpu_has_pending_event(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;
	const struct vcpu_vmx *vmx = vcpu_vmx(file);
	const u64 wanted = BIT_ULL(KVM_REQ_UNBLOCK & KVM_REQUEST_MASK) | BIT_ULL(KVM_REQ_NMI & KVM_REQUEST_MASK) |
			   BIT_ULL(KVM_REQ_SMI & KVM_REQUEST_MASK);

	return READ_ONCE(vcpu->requests) & wanted || lapic_has_interrupt(vcpu, vmx) || lapic_timer_has_expired(vcpu, vmx) ||
	       pic_has_interrupt(vcpu) || (vcpu->arch.apic && READ_ONCE(vcpu->arch.apic->pending_events));
}

/*
 * Whether a vCPU that spins, waiting for the vCPU of an open file, gives its time to that only if KVM sees an interrupt pending
 * there. In the scheduler's callback of the vCPU's thread that is being preempted, after KVM's own.
 *
 * These are the conditions of kvm_vcpu_on_spin(): the guest's spinning makes it exit (PLE), the vCPU has lost its CPU while it
 * was in the guest's user mode, and KVM has a place to look for interrupts without taking the vCPU, which is so with APICv and
 * AVIC only. KVM's callback has just written the first two, since what registers last is called first.
 */
bool rust_helper_kvm_vcpu_yield_needs_interrupt(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;

	return vcpu->preempted && !vcpu->arch.preempted_in_kernel && vcpu->arch.apic && vcpu->arch.apic->apicv_active &&
	       !kvm_pause_in_guest(vcpu->kvm);
}

/* Whether KVM lets the current task use the vCPU of an open file: kvm_vcpu_ioctl() begins with this. */
bool rust_helper_kvm_vcpu_is_callers(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;

	return vcpu->kvm->mm == current->mm && !READ_ONCE(vcpu->kvm->vm_dead);
}

/*
 * Whether KVM has yet to complete, when KVM_RUN is called next, what the vCPU of an open file has exited for. Until then its
 * state is that of the middle of an instruction. By the thread that has run the vCPU, before another one can.
 */
bool rust_helper_kvm_vcpu_completes_on_entry(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;

	return READ_ONCE(vcpu->arch.complete_userspace_io);
}

/*
 * Whether the vCPU of an open file is in protected mode. The guest never owns this bit of CR0 (KVM_POSSIBLE_CR0_GUEST_BITS), so
 * KVM need not ask the CPU. If the vCPU runs, the answer is old when it comes.
 */
bool rust_helper_kvm_vcpu_is_in_protected_mode(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;

	return READ_ONCE(vcpu->arch.cr0) & X86_CR0_PE;
}

/*
 * Sets for how long KVM polls at most before a halted vCPU of the VM of an open file sleeps: as its parameter says, or, if that is
 * overridden, for max_ns. This is KVM_CAP_HALT_POLL without an argument in user space, and can be undone, which that cannot. The
 * order is that of kvm_vm_ioctl_enable_cap_generic(), for kvm_vcpu_max_halt_poll_ns().
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
 * Makes KVM_RUN, in which a task runs the vCPU of an open file, return as if there were a signal. Both must stay.
 *
 * The barrier in rcuwait_wake_up() is between the flag and the mode. It pairs with KVM's between writing the mode and
 * looking for signals.
 */
void rust_helper_kvm_vcpu_kick_task(const struct file *file, struct task_struct *task)
{
	struct kvm_vcpu *vcpu = file->private_data;

	set_tsk_thread_flag(task, TIF_NOTIFY_SIGNAL);
	if (!rcuwait_wake_up(kvm_arch_vcpu_get_wait(vcpu)) && READ_ONCE(vcpu->mode) != OUTSIDE_GUEST_MODE)
		kick_process(task);
}

/* The same for the task that has last begun to run the vCPU, which may be anywhere. */
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
