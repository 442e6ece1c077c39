/* SPDX-License-Identifier: GPL-2.0 */
/* The virtual machine of the tests of the idle call and of its windows. */
#ifndef PVIRQ_SELFTESTS_IDLE_FIXTURE_H
#define PVIRQ_SELFTESTS_IDLE_FIXTURE_H

#include "idle.h"

FIXTURE(idle)
{
	struct vm vm;
	struct vcpu vcpu;
	volatile struct pvirq_descriptor *descriptor;
	struct runner runner;
	int rounds;
};

FIXTURE_SETUP(idle)
{
	posting_open(&self->vm, &self->vcpu);
	vm_set_handler(&self->vm, NMI, guest_handler_out);
	self->descriptor = descriptor(&self->vm, 0);
	/* The vCPU is going to have CPU 0 for itself. */
	pin(1);
}

FIXTURE_TEARDOWN(idle)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

#endif
