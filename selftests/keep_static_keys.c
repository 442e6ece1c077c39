// SPDX-License-Identifier: GPL-2.0
/*
 * Keeps VMs of KVM's own open until it is killed.
 *
 * When the first VM comes and the last one goes, KVM flips static keys, that
 * is, the kernel patches its own code, in the scheduler among other places.
 * Tests make it do so thousands of times, and under QEMU's TCG a CPU now and
 * then executes the breakpoint of a patch that is over already: "Oops: int3"
 * in __schedule(). With one VM of each kind open, no key is flipped.
 */
#include <sys/ioctl.h>
#include <unistd.h>

#include "vm.h"

int main(void)
{
	struct vcpu without_lapic, with_lapic;
	struct vm vms[2];

	/* preempt_notifier_key and kvm_has_noapic_vcpu. */
	vm_open(&vms[0], KVM_DEVICE);
	vcpu_open(&vms[0], &without_lapic, 0);
	/* apic_sw_disabled. */
	vm_open(&vms[1], KVM_DEVICE);
	vm_create_irqchip(&vms[1]);
	vcpu_open(&vms[1], &with_lapic, 0);
	for (;;)
		pause();
}
