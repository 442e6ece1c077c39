// SPDX-License-Identifier: GPL-2.0
/* The idle call: what ends it, and what it says of that. */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "idle_fixture.h"

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
	uint64_t began = now(), start = 0;
	long polled = 0;

	REGISTER();
	set_poll(&self->vm, 5 * MS, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	/* Some task of the kernel's may want the CPU, in the call or behind it, but not every time. */
	while (now() - began < GIVE_WAY_NS) {
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
		uint64_t _began = now();					\
										\
		while (*(uint8_t *)vcpu_io_data(&self->vcpu) == 0x55 && now() - _began < GIVE_WAY_NS)	\
			ASSERT_EQ(0, vcpu_run(&self->vcpu));			\
		ASSERT_EQ(0x77, *(uint8_t *)vcpu_io_data(&self->vcpu));		\
	} while (0)

/*
 * Has another thread do something to a vCPU that polls, again and again. It may have
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
	uint64_t began = now();
	long polled, least = LONG;
	int hits = 0;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	for (int i = 0; i < ROUNDS || (hits < SOME && now() - began < GIVE_WAY_NS); i++) {
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

#define MSR_TSC			0x10
#define MSR_APIC_BASE		0x1b
#define MSR_TSC_DEADLINE	0x6e0
/* The local APIC's registers in x2APIC mode: KVM_SET_LAPIC would end the registration. */
#define MSR_LVT_TIMER		0x832
#define MSR_TIMER_INITIAL	0x838
#define MSR_TIMER_DIVIDE	0x83e
#define X2APIC_ENABLED		(1 << 10)
#define TIMER_TSC_DEADLINE	(2 << 17)

static uint64_t get_msr(struct vcpu *vcpu, uint32_t index)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} msrs = { .header.nmsrs = 1, .entry.index = index };

	if (ioctl(vcpu->fd, KVM_GET_MSRS, &msrs) != 1)
		die("KVM_GET_MSRS of %#x", index);
	return msrs.entry.data;
}

static void set_msr(struct vcpu *vcpu, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} msrs = { .header.nmsrs = 1, .entry = { .index = index, .data = value } };

	if (ioctl(vcpu->fd, KVM_SET_MSRS, &msrs) != 1)
		die("KVM_SET_MSRS of %#x", index);
}

/* Gives a vCPU that has not run an x2APIC whose timer has our vector, and can have a TSC deadline. */
static void enable_timer(struct vm *vm, struct vcpu *vcpu, uint32_t mode)
{
	struct {
		struct kvm_cpuid2 header;
		struct kvm_cpuid_entry2 entries[256];
	} cpuid = { .header.nent = 256 };

	if (ioctl(vm->device, KVM_GET_SUPPORTED_CPUID, &cpuid))
		die("KVM_GET_SUPPORTED_CPUID");
	for (unsigned int i = 0; i < cpuid.header.nent; i++)
		if (cpuid.entries[i].function == 1)
			cpuid.entries[i].ecx |= 1 << 24 | 1 << 21;
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, &cpuid))
		die("KVM_SET_CPUID2");
	set_msr(vcpu, MSR_APIC_BASE, get_msr(vcpu, MSR_APIC_BASE) | X2APIC_ENABLED);
	/* The clock of the bus, 1 ns, undivided. */
	set_msr(vcpu, MSR_TIMER_DIVIDE, 0xb);
	set_msr(vcpu, MSR_LVT_TIMER, mode | VECTOR);
}

/* Starts the vCPU's timer, or stops it if the time is 0. */
static void set_timer(struct vcpu *vcpu, uint32_t ns)
{
	set_msr(vcpu, MSR_TIMER_INITIAL, ns);
}

/* Lets a timer of 5 ms end idle calls, again and again. On a busy machine it may be over before the vCPU polls, but not always. */
#define EXPECT_TIMER_ENDS(start, stop)						\
	do {									\
		uint64_t began = now();						\
		int hits = 0;							\
										\
		REGISTER();							\
		set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);		\
		LOAD(guest_idle);						\
		for (int i = 0; i < ROUNDS || (!hits && now() - began < GIVE_WAY_NS); i++) {	\
			start;							\
			ASSERT_EQ(0, vcpu_run(&self->vcpu));			\
			EXPECT_INTERRUPT();					\
			hits += idle_end(self->descriptor) == PVIRQ_IDLE_EVENT;	\
			stop;							\
			vcpu_end_interrupts(&self->vcpu);			\
			EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));		\
		}								\
		EXPECT_LT(0, hits);						\
	} while (0)

/* kvm-intel's preemption_timer has no timer of the host's for it, if it lets the CPU do it at all. */
TEST_F(idle, ends_by_the_timer)
{
	enable_timer(&self->vm, &self->vcpu, 0);
	EXPECT_TIMER_ENDS(set_timer(&self->vcpu, 5 * MS), set_timer(&self->vcpu, 0));
}

static void set_deadline(struct vcpu *vcpu, uint64_t ns)
{
	uint64_t khz = ioctl(vcpu->fd, KVM_GET_TSC_KHZ);

	set_msr(vcpu, MSR_TSC_DEADLINE, get_msr(vcpu, MSR_TSC) + ns * khz / 1000000);
}

/* The guest's TSC is far ahead of the host's. */
TEST_F(idle, ends_by_the_tsc_deadline)
{
	enable_timer(&self->vm, &self->vcpu, TIMER_TSC_DEADLINE);
	set_msr(&self->vcpu, MSR_TSC, 1ULL << 50);
	EXPECT_TIMER_ENDS(set_deadline(&self->vcpu, 5 * MS), set_msr(&self->vcpu, MSR_TSC_DEADLINE, 0));
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
			EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(self->descriptor));
			EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
		}
	}
	EXPECT_LE(SOME, early);
}

TEST_HARNESS_MAIN
