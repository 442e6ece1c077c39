// SPDX-License-Identifier: GPL-2.0
/*
 * What takes C: fields of structures, and inline functions, that kernel::bindings does not know. As rust/helpers does.
 */
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/kvm_host.h>

#include "irq.h"
#include "lapic.h"
#include <linux/pid.h>
#include <linux/preempt.h>
#include <linux/rcuwait.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

bool rust_helper_kvm_vcpu_is_wanted(const struct file *file);
void rust_helper_kvm_vcpu_force(const struct file *file, struct task_struct *task);
void rust_helper_kvm_vcpu_force_last(const struct file *file);
bool rust_helper_fatal_signal_pending(void);
bool rust_helper_in_interrupt(void);
bool rust_helper_in_ksoftirqd(void);
void rust_helper_tasklet_schedule(struct tasklet_struct *tasklet);

/*
 * Whether the vCPU's local APIC has an interrupt that the vCPU could take now if it had interrupts on, by the registers as they
 * are: kvm_apic_has_interrupt() is KVM's own.
 */
static bool lapic_has_interrupt(const struct kvm_vcpu *vcpu)
{
	const struct kvm_lapic *apic = vcpu->arch.apic;

	if (!apic || !apic->regs || apic->guest_apic_protected)
		return false;
	for (int i = 7; i >= 0; i--) {
		u32 irr = READ_ONCE(*(const u32 *)(apic->regs + APIC_IRR + 0x10 * i));

		if (irr) {
			u32 vector = 32 * i + __fls(irr);
			u32 priority = READ_ONCE(*(const u32 *)(apic->regs + APIC_PROCPRI));

			return (vector & 0xf0) > (priority & 0xf0);
		}
	}
	return false;
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
bool rust_helper_kvm_vcpu_is_wanted(const struct file *file)
{
	const struct kvm_vcpu *vcpu = file->private_data;
	const u64 wanted = BIT_ULL(KVM_REQ_UNBLOCK & KVM_REQUEST_MASK) | BIT_ULL(KVM_REQ_NMI & KVM_REQUEST_MASK) |
			   BIT_ULL(KVM_REQ_SMI & KVM_REQUEST_MASK);

	return READ_ONCE(vcpu->requests) & wanted || lapic_has_interrupt(vcpu) || pic_has_interrupt(vcpu) ||
	       (vcpu->arch.apic && READ_ONCE(vcpu->arch.apic->pending_events));
}

/*
 * Makes KVM_RUN, in which a task runs the vCPU of an open file, return as if there were a signal. Both must stay.
 *
 * The barrier in rcuwait_wake_up() is between the flag and the mode. It pairs with KVM's between writing the mode and
 * looking for signals.
 */
void rust_helper_kvm_vcpu_force(const struct file *file, struct task_struct *task)
{
	struct kvm_vcpu *vcpu = file->private_data;

	set_tsk_thread_flag(task, TIF_NOTIFY_SIGNAL);
	if (!rcuwait_wake_up(kvm_arch_vcpu_get_wait(vcpu)) && READ_ONCE(vcpu->mode) != OUTSIDE_GUEST_MODE)
		kick_process(task);
}

/* The same for the task that has last begun to run the vCPU, which may be anywhere. */
void rust_helper_kvm_vcpu_force_last(const struct file *file)
{
	struct kvm_vcpu *vcpu = file->private_data;
	struct task_struct *task;

	read_lock(&vcpu->pid_lock);
	task = get_pid_task(vcpu->pid, PIDTYPE_PID);
	read_unlock(&vcpu->pid_lock);
	if (!task)
		return;
	rust_helper_kvm_vcpu_force(file, task);
	put_task_struct(task);
}

bool rust_helper_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

bool rust_helper_in_interrupt(void)
{
	return in_interrupt();
}

/* The kernel's own array of them is not exported. */
bool rust_helper_in_ksoftirqd(void)
{
	return current->flags & PF_KTHREAD && str_has_prefix(current->comm, "ksoftirqd/");
}

void rust_helper_tasklet_schedule(struct tasklet_struct *tasklet)
{
	tasklet_schedule(tasklet);
}
