/* SPDX-License-Identifier: GPL-2.0 */
/* What the tests of the idle call and of its windows share. */
#ifndef PVIRQ_SELFTESTS_IDLE_H
#define PVIRQ_SELFTESTS_IDLE_H

#include <sys/ioctl.h>

#include "harness.h"
#include "posting.h"

#define NMI	2
#define ROUNDS	repeats(50)
/* How many of them have to go as they are meant to, on however busy a machine. */
#define SOME	((ROUNDS + 9) / 10)
/*
 * For how long something may have to give way, in ns. Not how often: a task of the kernel's that wants the CPU gets it at the
 * next tick, and until then a fast machine makes hundreds of calls.
 */
#define GIVE_WAY_NS	(1000ULL * MS)
#define MS	1000000
/* As long as can be, for tests that have to catch a vCPU at it. */
#define LONG	PVIRQ_POLL_MAX_NS

#define COMMAND_PORT	0xb90
_Static_assert(COMMAND_PORT == PVIRQ_PORT_BASE + PVIRQ_REG_COMMAND, "the assembler cannot see macros' sums");

/* Makes the idle call, and then writes 0x55 to the port. Interrupts are on in the call only. */
GUEST(guest_idle,
	"1:	mov	$" STR(COMMAND_PORT) ", %dx\n"
	"	mov	$3, %eax\n"
	"	sti\n"
	"	out	%eax, %dx\n"
	"	cli\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	mov	$0x55, %al\n"
	"	out	%al, %dx\n"
	"	jmp	1b\n");

#define REGISTER()	\
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, DESCRIPTORS, 1))

/* Expects that the guest writes a byte to its port when the thread, or this one, runs it. */
#define EXPECT_BYTE(byte, result)						\
	do {									\
		ASSERT_EQ(0, result);						\
		ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);		\
		ASSERT_EQ(byte, *(uint8_t *)vcpu_io_data(&self->vcpu));		\
	} while (0)

static inline struct pvirq_poll poll_of(uint32_t host_ns, uint32_t budget, uint32_t policy)
{
	return (struct pvirq_poll){
		.size = sizeof(struct pvirq_poll),
		.host_poll_ns = host_ns,
		.budget = budget,
		.policy = policy,
	};
}

static inline void set_poll(struct vm *vm, uint32_t host_ns, uint32_t budget, uint32_t policy)
{
	struct pvirq_poll poll = poll_of(host_ns, budget, policy);

	if (ioctl(vm->fd, PVIRQ_SET_POLL, &poll))
		die("PVIRQ_SET_POLL");
}

static inline uint32_t idle_end(volatile struct pvirq_descriptor *descriptor)
{
	return __atomic_load_n(&descriptor->idle_end, __ATOMIC_SEQ_CST);
}

static inline void signal_msi(struct vm *vm)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = VECTOR };

	if (ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) != 1)
		die("KVM_SIGNAL_MSI");
}

#endif
