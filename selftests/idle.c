// SPDX-License-Identifier: GPL-2.0
/* The idle call: what ends it, and what it says of that. */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "idle.h"

TEST_F(idle, is_announced)
{
	EXPECT_TRUE(guest_read(&self->vm, &self->vcpu, PVIRQ_REG_FEATURES) & PVIRQ_FEATURE_IDLE);
}

TEST_F(idle, takes_a_descriptor)
{
	EXPECT_EQ(PVIRQ_STATUS_NOT_REGISTERED, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_IDLE));
	EXPECT_EQ(PVIRQ_STATUS_UNSUPPORTED, guest_command(&self->vm, &self->vcpu, 1 << 16 | PVIRQ_COMMAND_IDLE));
	REGISTER();
	/* So that it makes one. */
	EXPECT_NE(0, self->descriptor->host_poll_ns);
	EXPECT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_IDLE));
	EXPECT_EQ(1, STATISTIC("idle-calls"));
}

TEST_F(idle, expires)
{
	uint64_t start = 0;
	long polled = 0;

	REGISTER();
	set_poll(&self->vm, 5 * MS, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	/* Some task of the kernel's may want the CPU, in the call or behind it, but not every time. */
	for (int i = 0; i < ATTEMPTS; i++) {
		self->descriptor->idle_end = PVIRQ_IDLE_EVENT;
		polled = STATISTIC("polled-ns");
		start = now();
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
		if (idle_end(self->descriptor) != PVIRQ_IDLE_CONTENDED && self->descriptor->host_poll_ns)
			break;
	}
	EXPECT_EQ(PVIRQ_IDLE_EXPIRED, idle_end(self->descriptor));
	EXPECT_LE(5 * MS, now() - start);
	EXPECT_EQ(5 * MS, self->descriptor->host_poll_ns);
	EXPECT_EQ(PVIRQ_HOST_OUTSIDE, host_state(self->descriptor));
	EXPECT_LE(5 * MS, STATISTIC("polled-ns") - polled);
}

/* Runs until the guest has handled its interrupt. Calls that have to give way come back without one. */
#define EXPECT_INTERRUPT()							\
	do {									\
		for (int _j = 0; _j < ATTEMPTS && *(uint8_t *)vcpu_io_data(&self->vcpu) == 0x55; _j++)	\
			ASSERT_EQ(0, vcpu_run(&self->vcpu));			\
		ASSERT_EQ(0x77, *(uint8_t *)vcpu_io_data(&self->vcpu));		\
	} while (0)

/*
 * Has somebody do something to a vCPU that polls, again and again. It may have
 * polled for long enough just then, if this machine is busy, but not always.
 */
#define WHILE_POLLING(disturb, end, hits)					\
	do {									\
		REGISTER();							\
		set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);		\
		LOAD(guest_idle);						\
		for (self->rounds = 0; self->rounds < ROUNDS ||			\
				(hits < SOME && self->rounds < 10 * ROUNDS); self->rounds++) {	\
			runner_start(&self->runner, &self->vcpu);		\
			if (!eventually(host_state(self->descriptor) == PVIRQ_HOST_POLLING ||	\
					!is_running(&self->runner)))		\
				die("the vCPU neither polls nor comes back");	\
			disturb;						\
			ASSERT_EQ(0, runner_wait(&self->runner));		\
			EXPECT_INTERRUPT();					\
			hits += idle_end(self->descriptor) == end;		\
			vcpu_end_interrupts(&self->vcpu);			\
			/* Back to the call. */					\
			EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));		\
		}								\
		EXPECT_LE(SOME, hits);					\
	} while (0)

TEST_F(idle, ends_by_a_post)
{
	int hits = 0;

	WHILE_POLLING(post(self->descriptor, VECTOR), PVIRQ_IDLE_POSTED, hits);
	EXPECT_EQ(self->rounds, STATISTIC("injected"));
	EXPECT_LE(SOME, STATISTIC("idle-posted"));
}

TEST_F(idle, ends_by_a_message)
{
	int hits = 0;

	WHILE_POLLING(signal_msi(&self->vm), PVIRQ_IDLE_EVENT, hits);
	EXPECT_LE(SOME, STATISTIC("idle-events"));
}

/* It came while the vCPU had interrupts off, and KVM has looked at it already. */
TEST_F(idle, ends_by_what_came_before)
{
	long polled, least = LONG;
	int hits = 0;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	for (int i = 0; i < ROUNDS; i++) {
		signal_msi(&self->vm);
		polled = STATISTIC("polled-ns");
		EXPECT_BYTE(0x77, vcpu_run(&self->vcpu));
		polled = STATISTIC("polled-ns") - polled;
		least = polled < least ? polled : least;
		/* Unless some task wants the CPU. */
		EXPECT_NE(PVIRQ_IDLE_EXPIRED, idle_end(self->descriptor));
		hits += idle_end(self->descriptor) == PVIRQ_IDLE_EVENT;
		vcpu_end_interrupts(&self->vcpu);
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
	}
	EXPECT_LE(SOME, hits);
	/* Of a window, next to nothing, if the thread keeps its CPU. */
	EXPECT_GT(MS, least);
}

TEST_F(idle, ends_by_an_nmi)
{
	int hits = 0;

	WHILE_POLLING(ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_NMI)), PVIRQ_IDLE_EVENT, hits);
}

static void lapic_set(struct kvm_lapic_state *lapic, unsigned int reg, uint32_t value)
{
	memcpy(lapic->regs + reg, &value, sizeof(value));
}

/* Starts the vCPU's timer, or stops it if the time is 0. */
static void set_timer(struct vcpu *vcpu, uint32_t ns)
{
	struct kvm_lapic_state lapic;

	if (ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic))
		die("KVM_GET_LAPIC");
	lapic_set(&lapic, 0x320, VECTOR);
	/* The clock of the bus, 1 ns, undivided. */
	lapic_set(&lapic, 0x3e0, 0xb);
	lapic_set(&lapic, 0x380, ns);
	/* What is left of it, by which KVM goes. */
	lapic_set(&lapic, 0x390, ns);
	if (ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic))
		die("KVM_SET_LAPIC");
}

TEST_F(idle, ends_by_the_timer)
{
	int hits = 0;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	for (int i = 0; i < ROUNDS; i++) {
		set_timer(&self->vcpu, 5 * MS);
		ASSERT_EQ(0, vcpu_run(&self->vcpu));
		EXPECT_INTERRUPT();
		hits += idle_end(self->descriptor) == PVIRQ_IDLE_EVENT;
		set_timer(&self->vcpu, 0);
		vcpu_end_interrupts(&self->vcpu);
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
	}
	/* On a busy machine it may be over before the vCPU polls, but not always. */
	EXPECT_LT(0, hits);
}

TEST_F(idle, ends_by_a_signal)
{
	int early = 0;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	for (int i = 0; i < ROUNDS || (early < SOME && i < 10 * ROUNDS); i++) {
		runner_start(&self->runner, &self->vcpu);
		ASSERT_TRUE(eventually(host_state(self->descriptor) == PVIRQ_HOST_POLLING ||
				       !is_running(&self->runner)));
		pthread_kill(self->runner.thread, SIGUSR1);
		if (runner_wait(&self->runner) == -EINTR) {
			early += idle_end(self->descriptor) == PVIRQ_IDLE_EVENT;
			EXPECT_EQ(PVIRQ_HOST_OUTSIDE, host_state(self->descriptor));
			EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
		}
	}
	EXPECT_LE(SOME, early);
}

TEST_HARNESS_MAIN
