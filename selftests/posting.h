/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A virtual machine whose guest talks to pvirq: its vCPU carries out a list of
 * port accesses that the test has written into its memory, and then writes to
 * GUEST_PORT.
 */
#ifndef _PVIRQ_SELFTESTS_POSTING_H
#define _PVIRQ_SELFTESTS_POSTING_H

#include <linux/pvirq.h>
#include <pthread.h>

#include "vm.h"

/* Where tests put their descriptors, unless they say otherwise. */
#define DESCRIPTORS	0xc000

/* One access to a port, of 32 bits. A list ends where the port is 0. */
struct access {
	uint16_t port;
	uint16_t out;
	uint32_t value;
};

GUEST_CODE_OF(guest_accesses);

/* Waits for interrupts without a halt, and without an exit. */
GUEST_CODE_OF(guest_wait);
/* Waits for interrupts in a halt. */
GUEST_CODE_OF(guest_sleep);
/* Writes 0x55 to the port, and then waits for interrupts in a halt. */
GUEST_CODE_OF(guest_out_sleep);
/* As a handler of HIGHER: writes 0x88 to the port. */
GUEST_CODE_OF(guest_handler_higher);

/* Opens a VM on the overlay, with a vCPU whose local APIC is on and hands VECTOR to guest_handler_out. */
void posting_open(struct vm *vm, struct vcpu *vcpu);

/* The vector of most tests, and one of a higher priority. */
#define VECTOR	0x40
#define HIGHER	0x61

/* Runs the fixture's vCPU until the guest has handled an interrupt whose handler writes `byte`. */
#define EXPECT_HANDLED(byte)							\
	do {									\
		ASSERT_EQ(0, vcpu_run(&self->vcpu));				\
		ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);		\
		EXPECT_EQ(byte, *(uint8_t *)vcpu_io_data(&self->vcpu));		\
	} while (0)

/* Puts guest code before the fixture's vCPU. */
#define LOAD(code)								\
	do {									\
		struct kvm_regs _regs = { .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2 };	\
		vm_write(&self->vm, GUEST_CODE, code, code##_end - code);	\
		ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_REGS, &_regs));	\
	} while (0)

/* Lets the fixture's vCPU exit for I/O that KVM completes on the next entry, before a halt: the VMM has it, and it will look. */
#define GO_OUTSIDE()								\
	do {									\
		LOAD(guest_out_sleep);						\
		EXPECT_HANDLED(0x55);						\
	} while (0)

/* A statistic of the fixture's vCPU. */
#define STATISTIC(field)	vcpu_statistic(&self->vcpu, "pvirq-" field)

/* Lets the vCPU carry out a list, and puts what it reads there. */
void guest_access(struct vm *vm, struct vcpu *vcpu, struct access *accesses, size_t count);

/* Reads a register of the guest interface. */
uint32_t guest_read(struct vm *vm, struct vcpu *vcpu, uint16_t offset);

/* Gives a command, and returns its status. */
uint32_t guest_command(struct vm *vm, struct vcpu *vcpu, uint32_t command);

/* Registers descriptors, and returns the status. */
uint32_t guest_register(struct vm *vm, struct vcpu *vcpu, uint64_t address, uint32_t count);

/* What the host says of the registration. */
struct pvirq_registration registration_of(struct vm *vm);
#define is_registered(vm)	(registration_of(vm).epoch != 0)

/* Puts a vCPU into protected mode, with segments of all memory, at a privilege level. */
void vcpu_set_privilege(struct vcpu *vcpu, unsigned int level);

/* Resets a vCPU that has run, as a VMM does: takes it out of protected mode. */
void vcpu_restart(struct vcpu *vcpu);

/* A descriptor in the VM's memory, as a sender in the guest would see it. */
static inline volatile struct pvirq_descriptor *descriptor(struct vm *vm, unsigned int index)
{
	return (volatile struct pvirq_descriptor *)(vm->memory + DESCRIPTORS) + index;
}

/* Sets a pending bit; says whether it was set. */
static inline bool post(volatile struct pvirq_descriptor *descriptor, unsigned int vector)
{
	uint64_t bit = 1ULL << vector % 64;

	return __atomic_fetch_or(&descriptor->pending[vector / 64], bit, __ATOMIC_SEQ_CST) & bit;
}

static inline bool is_pending(volatile struct pvirq_descriptor *descriptor, unsigned int vector)
{
	return __atomic_load_n(&descriptor->pending[vector / 64], __ATOMIC_SEQ_CST) >> vector % 64 & 1;
}

static inline uint32_t host_state(volatile struct pvirq_descriptor *descriptor)
{
	return __atomic_load_n(&descriptor->host_state, __ATOMIC_SEQ_CST);
}

/* Puts this thread on a CPU. */
void pin(int cpu);

/* A thread that runs a vCPU on CPU 0 until KVM_RUN returns. */
struct runner {
	struct vcpu *vcpu;
	pthread_t thread;
	/* What KVM_RUN has returned; 1 as long as it has not. */
	volatile int result;
};

void runner_start(struct runner *runner, struct vcpu *vcpu);
#define is_running(runner)	((runner)->result == 1)
/* Waits until KVM_RUN returns by itself, and returns what it does. */
int runner_wait(struct runner *runner);
/* Ends KVM_RUN by a signal, SIGUSR1, if it does not end by itself. */
int runner_stop(struct runner *runner);

/* A thread that takes CPU 0's time from the other threads there. */
struct contender {
	volatile bool at_work;
	pthread_t thread;
	volatile bool stop;
};

void contender_start(struct contender *contender);
void contender_stop(struct contender *contender);

/* Ends all interrupts that are in service, as the guest's EOI would. */
void vcpu_end_interrupts(struct vcpu *vcpu);

/* A number in the vCPU's fdinfo. */
long vcpu_statistic(struct vcpu *vcpu, const char *field);

/* How often the current thread has left its CPU, of its own accord or not. */
long thread_switches(void);

/* A number in this process's status: kB for memory. */
long proc_value(const char *field);

#endif
