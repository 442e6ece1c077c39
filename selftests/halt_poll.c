// SPDX-License-Identifier: GPL-2.0
/* KVM's own polling for halted vCPUs: switched off while the guest makes idle calls, and what it was afterwards. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "idle.h"

#define PARAMETER	"/sys/module/kvm/parameters/halt_poll_ns"
/* So long that each halt of these tests is short, and polled for next time. */
#define LONG_POLL	1000000000U
/* How many halts show that none is polled for. */
#define HALTS		10

/* Counts in memory, and then waits for interrupts in a halt. */
GUEST(guest_count_halts,
	"1:	incl	" STR(GUEST_DATA) "\n"
	"	sti\n"
	"	hlt\n"
	"	jmp	1b\n");

static unsigned int parameter_get(void)
{
	FILE *file = fopen(PARAMETER, "re");
	unsigned int value;

	if (!file || fscanf(file, "%u", &value) != 1)
		die(PARAMETER);
	fclose(file);
	return value;
}

static void parameter_set(unsigned int value)
{
	FILE *file = fopen(PARAMETER, "we");

	if (!file || fprintf(file, "%u", value) < 0 || fclose(file))
		die(PARAMETER);
}

FIXTURE(halt_poll)
{
	struct vm vm;
	struct vcpu vcpu;
	volatile struct pvirq_descriptor *descriptor;
	struct runner runner;
	unsigned int parameter;
	int stats;
	/* Where the number of halts that KVM has polled for is. */
	off_t polls_offset;
};

/* How long KVM polls: the VMM, the module or the parameter says. */
FIXTURE_VARIANT(halt_poll)
{
	bool vmm;
};

FIXTURE_VARIANT_ADD(halt_poll, parameter)
{
	.vmm = false,
};

FIXTURE_VARIANT_ADD(halt_poll, vmm)
{
	.vmm = true,
};

/* Where a statistic of a vCPU is in its file. */
static off_t statistic_offset(int fd, const char *name)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *desc;
	off_t offset = -1;

	if (pread(fd, &header, sizeof(header), 0) != sizeof(header))
		die("statistics");
	desc = malloc(sizeof(*desc) + header.name_size);
	for (unsigned int i = 0; i < header.num_desc && offset < 0; i++) {
		size_t size = sizeof(*desc) + header.name_size;

		if (pread(fd, desc, size, header.desc_offset + i * size) != size)
			die("statistics");
		if (!strcmp(desc->name, name))
			offset = header.data_offset + desc->offset;
	}
	free(desc);
	if (offset < 0)
		die("no statistic %s", name);
	return offset;
}

static int try_halt_poll(struct vm *vm, uint64_t ns)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_HALT_POLL, .args = { ns } };

	return ioctl(vm->fd, KVM_ENABLE_CAP, &cap) ? errno : 0;
}

FIXTURE_SETUP(halt_poll)
{
	self->parameter = parameter_get();
	parameter_set(variant->vmm ? 0 : LONG_POLL);
	posting_open(&self->vm, &self->vcpu);
	if (variant->vmm)
		ASSERT_EQ(0, try_halt_poll(&self->vm, LONG_POLL));
	self->stats = ioctl(self->vcpu.fd, KVM_GET_STATS_FD, NULL);
	ASSERT_LE(0, self->stats);
	self->polls_offset = statistic_offset(self->stats, "halt_attempted_poll");
	self->descriptor = descriptor(&self->vm, 0);
	/* The vCPU is going to have CPU 0 for itself. */
	pin(1);
}

FIXTURE_TEARDOWN(halt_poll)
{
	close(self->stats);
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
	parameter_set(self->parameter);
}

#define POLLS()									\
	({									\
		uint64_t _polls;						\
		if (pread(self->stats, &_polls, sizeof(_polls), self->polls_offset) != sizeof(_polls))	\
			die("statistics");					\
		_polls;								\
	})

/* Lets the vCPU halt for a while, until an interrupt comes. */
#define HALT()									\
	do {									\
		uint32_t _counter = guest_counter(&self->vm);			\
										\
		LOAD(guest_count_halts);					\
		runner_start(&self->runner, &self->vcpu);			\
		ASSERT_TRUE(eventually(guest_counter(&self->vm) != _counter ||	\
				       !is_running(&self->runner)));		\
		ASSERT_TRUE(is_running(&self->runner))				\
			TH_LOG("KVM_RUN %d, exit %u", self->runner.result, self->vcpu.run->exit_reason);	\
		usleep(1000);							\
		signal_msi(&self->vm);						\
		EXPECT_BYTE(0x77, runner_wait(&self->runner));			\
		vcpu_end_interrupts(&self->vcpu);				\
	} while (0)

#define EXPECT_KVM_POLLS()							\
	do {									\
		uint64_t _polls = POLLS(), _began = now();			\
										\
		while (POLLS() == _polls && now() - _began < PATIENCE * 1000000000ULL)	\
			HALT();							\
		EXPECT_LT(_polls, POLLS());					\
	} while (0)

#define EXPECT_KVM_DOES_NOT_POLL()						\
	do {									\
		uint64_t _polls = POLLS();					\
										\
		for (int _i = 0; _i < HALTS; _i++)				\
			HALT();							\
		EXPECT_EQ(_polls, POLLS());					\
	} while (0)

#define REGISTER_AND_CALL()							\
	do {									\
		REGISTER();							\
		LOAD(guest_idle);						\
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));			\
	} while (0)

static void set_windows(struct vm *vm, uint32_t guest_ns, uint32_t host_ns)
{
	struct pvirq_poll poll = poll_of(host_ns, 100, PVIRQ_POLICY_FIXED);

	poll.guest_poll_ns = guest_ns;
	if (ioctl(vm->fd, PVIRQ_SET_POLL, &poll))
		die("PVIRQ_SET_POLL");
}

TEST_F(halt_poll, is_switched_off_by_an_idle_call)
{
	EXPECT_KVM_POLLS();
	REGISTER();
	EXPECT_KVM_POLLS();
	LOAD(guest_idle);
	EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
	EXPECT_KVM_DOES_NOT_POLL();
}

TEST_F(halt_poll, is_back_when_the_guest_unregisters)
{
	for (int i = 0; i < 2; i++) {
		REGISTER_AND_CALL();
		EXPECT_KVM_DOES_NOT_POLL();
		ASSERT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_UNREGISTER));
		EXPECT_KVM_POLLS();
	}
}

TEST_F(halt_poll, is_back_when_the_registration_ends)
{
	REGISTER_AND_CALL();
	EXPECT_KVM_DOES_NOT_POLL();
	ASSERT_EQ(0, ioctl(self->vm.fd, PVIRQ_END_REGISTRATION));
	EXPECT_KVM_POLLS();
	/* Another one begins with the first idle call. */
	REGISTER();
	EXPECT_KVM_POLLS();
	LOAD(guest_idle);
	EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
	EXPECT_KVM_DOES_NOT_POLL();
	vcpu_restart(&self->vcpu);
	vcpu_reset(&self->vcpu);
	EXPECT_KVM_POLLS();
}

TEST_F(halt_poll, is_back_while_there_are_no_windows)
{
	REGISTER_AND_CALL();
	EXPECT_KVM_DOES_NOT_POLL();
	set_windows(&self->vm, 0, 0);
	EXPECT_KVM_POLLS();
	set_windows(&self->vm, 100000, 0);
	EXPECT_KVM_DOES_NOT_POLL();
	set_windows(&self->vm, 0, 0);
	EXPECT_KVM_POLLS();
	set_windows(&self->vm, 0, 100000);
	EXPECT_KVM_DOES_NOT_POLL();
}

/* A VMM that wants something else has its way, at once and for the time after that. */
TEST_F(halt_poll, is_the_vmms)
{
	REGISTER_AND_CALL();
	EXPECT_KVM_DOES_NOT_POLL();
	EXPECT_EQ(EINVAL, try_halt_poll(&self->vm, 1ULL << 32));
	EXPECT_KVM_DOES_NOT_POLL();
	ASSERT_EQ(0, try_halt_poll(&self->vm, LONG_POLL));
	EXPECT_KVM_POLLS();
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_UNREGISTER));
	EXPECT_KVM_POLLS();
	REGISTER_AND_CALL();
	EXPECT_KVM_DOES_NOT_POLL();
	ASSERT_EQ(0, try_halt_poll(&self->vm, 0));
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_UNREGISTER));
	EXPECT_KVM_DOES_NOT_POLL();
}

/* What was found out for one registration does not count for the next one. */
TEST_F(halt_poll, windows_begin_anew)
{
	const uint32_t first = 10000;

	set_windows(&self->vm, 100000, 100000);
	REGISTER_AND_CALL();
	HALT();
	EXPECT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_UNREGISTER));
	EXPECT_EQ(0, self->descriptor->guest_poll_ns);
	EXPECT_EQ(0, self->descriptor->host_poll_ns);
	REGISTER();
	HALT();
	HALT();
	EXPECT_EQ(0, self->descriptor->guest_poll_ns);
	EXPECT_EQ(first, self->descriptor->host_poll_ns);
	LOAD(guest_idle);
	EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
	HALT();
	EXPECT_NE(first, self->descriptor->host_poll_ns);
}

/* A registration that ends while the host polls for a vCPU. */
TEST_F(halt_poll, ends_with_the_registration)
{
	int hits = 0, rounds;

	set_windows(&self->vm, 0, LONG);
	for (rounds = 0; rounds < ROUNDS || (hits < SOME && rounds < 10 * ROUNDS); rounds++) {
		long polled;

		REGISTER();
		polled = STATISTIC("polled-ns");
		self->descriptor->idle_end = PVIRQ_IDLE_EVENT;
		LOAD(guest_idle);
		runner_start(&self->runner, &self->vcpu);
		ASSERT_TRUE(eventually(host_state(self->descriptor) == PVIRQ_HOST_POLLING || !is_running(&self->runner)));
		ASSERT_EQ(0, ioctl(self->vm.fd, PVIRQ_END_REGISTRATION));
		EXPECT_BYTE(0x55, runner_wait(&self->runner));
		EXPECT_EQ(PVIRQ_IDLE_EXPIRED, idle_end(self->descriptor));
		EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(self->descriptor));
		hits += STATISTIC("polled-ns") - polled < LONG / 2;
		EXPECT_EQ(PVIRQ_STATUS_NOT_REGISTERED,
			  guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_IDLE));
	}
	EXPECT_LE(SOME, hits);
}

TEST_HARNESS_MAIN
