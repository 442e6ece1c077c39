// SPDX-License-Identifier: GPL-2.0
/* Posted interrupts: where the host says that a vCPU is, and that whatever is posted arrives. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "posting.h"

#define ROUNDS	repeats(300)

FIXTURE(delivery)
{
	struct vm vm;
	struct vcpu vcpu;
	volatile struct pvirq_descriptor *descriptor;
	struct runner runner;
};

FIXTURE_SETUP(delivery)
{
	posting_open(&self->vm, &self->vcpu);
	vm_set_handler(&self->vm, HIGHER, guest_handler_higher);
	self->descriptor = descriptor(&self->vm, 0);
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, DESCRIPTORS, 1));
}

FIXTURE_TEARDOWN(delivery)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

TEST_F(delivery, posted_while_the_vmm_has_the_vcpu)
{
	long switches = thread_switches();

	GO_OUTSIDE();
	ASSERT_EQ(PVIRQ_HOST_OUTSIDE, host_state(self->descriptor));
	EXPECT_FALSE(post(self->descriptor, VECTOR));
	EXPECT_TRUE(post(self->descriptor, VECTOR));
	EXPECT_HANDLED(0x77);
	EXPECT_FALSE(is_pending(self->descriptor, VECTOR));
	EXPECT_EQ(PVIRQ_HOST_OUTSIDE, host_state(self->descriptor));
	EXPECT_EQ(1, STATISTIC("injected"));
	EXPECT_EQ(1, STATISTIC("drains"));
	/* None, unless some task takes the CPU just before the vCPU looks. */
	EXPECT_LE(STATISTIC("forced-exits"), thread_switches() - switches);
	EXPECT_EQ(1, self->descriptor->injected);
	EXPECT_EQ(1, self->descriptor->drains);
}

TEST_F(delivery, higher_vectors_first)
{
	LOAD(guest_sleep);
	post(self->descriptor, VECTOR);
	post(self->descriptor, HIGHER);
	EXPECT_HANDLED(0x88);
	vcpu_end_interrupts(&self->vcpu);
	EXPECT_HANDLED(0x77);
	EXPECT_EQ(2, STATISTIC("injected"));
	EXPECT_EQ(1, STATISTIC("drains"));
}

TEST_F(delivery, reserved_vectors_are_dropped)
{
	LOAD(guest_sleep);
	for (int vector = 0; vector < PVIRQ_FIRST_VECTOR; vector++)
		post(self->descriptor, vector);
	post(self->descriptor, VECTOR);
	EXPECT_HANDLED(0x77);
	EXPECT_EQ(0, self->descriptor->pending[0]);
	EXPECT_EQ(PVIRQ_FIRST_VECTOR, STATISTIC("dropped-reserved"));
	EXPECT_EQ(1, STATISTIC("injected"));
	EXPECT_EQ(PVIRQ_FIRST_VECTOR, self->descriptor->dropped_reserved);
}

TEST_F(delivery, what_the_guest_writes_is_not_believed)
{
	LOAD(guest_sleep);
	/* The host keeps its own counts and states. */
	memset((void *)((char *)self->descriptor + 64), 0xff, 192);
	post(self->descriptor, VECTOR);
	EXPECT_HANDLED(0x77);
	EXPECT_EQ(1, STATISTIC("injected"));
	EXPECT_EQ(1, self->descriptor->injected);
	EXPECT_EQ(PVIRQ_HOST_OUTSIDE, host_state(self->descriptor));
}

#define LONG_ID		300
#define LONG_APIC_IDS	(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK)
#define MORE_MEMORY	0x40000
#define IA32_APIC_BASE	0x1b
#define X2APIC		(0xfee00000 | 1 << 11 | 1 << 10)

/* An APIC ID that does not fit into 8 bits, as far as the VMM allows for it. */
TEST_F(delivery, apic_ids_of_32_bits)
{
	struct kvm_enable_cap ids = { .cap = KVM_CAP_X2APIC_API, .args = { LONG_APIC_IDS } };
	struct kvm_mp_state runnable = { KVM_MP_STATE_RUNNABLE };
	struct {
		struct kvm_msrs msrs;
		struct kvm_msr_entry entry;
	} mode = { { .nmsrs = 1 }, { .index = IA32_APIC_BASE, .data = X2APIC } };
	struct {
		struct kvm_cpuid2 cpuid;
		struct kvm_cpuid_entry2 entries[256];
	} cpuid = { { .nent = 256 }, {} };
	struct kvm_regs regs = { .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2 };
	volatile struct pvirq_descriptor *there;
	struct vcpu vcpu;
	struct vm vm;

	vm_open(&vm, PVIRQ_DEVICE);
	ASSERT_EQ(0, ioctl(vm.fd, KVM_ENABLE_CAP, &ids));
	vm_create_irqchip(&vm);
	vcpu_open(&vm, &vcpu, LONG_ID);
	ASSERT_EQ(0, ioctl(vm.device, KVM_GET_SUPPORTED_CPUID, &cpuid));
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_SET_CPUID2, &cpuid));
	ASSERT_EQ(1, ioctl(vcpu.fd, KVM_SET_MSRS, &mode));
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_SET_MP_STATE, &runnable));
	vcpu_reset(&vcpu);
	vcpu_enable_lapic(&vcpu);
	vm_set_handler(&vm, VECTOR, guest_handler_out);
	there = (void *)vm_add_memory(&vm, 1, MORE_MEMORY, 32 * PAGE_SIZE, 0);

	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&vm, &vcpu, MORE_MEMORY, LONG_ID + 1));
	vm_write(&vm, GUEST_CODE, guest_sleep, guest_sleep_end - guest_sleep);
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_SET_REGS, &regs));
	post(there + LONG_ID, VECTOR);
	ASSERT_EQ(0, vcpu_run(&vcpu));
	EXPECT_EQ(KVM_EXIT_IO, vcpu.run->exit_reason);
	EXPECT_EQ(0x77, *(uint8_t *)vcpu_io_data(&vcpu));
	EXPECT_FALSE(is_pending(there + LONG_ID, VECTOR));
	vcpu_close(&vcpu);
	vm_close(&vm);
}

TEST_F(delivery, a_vcpu_that_halts_is_blocked)
{
	LOAD(guest_sleep);
	runner_start(&self->runner, &self->vcpu);
	EXPECT_TRUE(eventually(host_state(self->descriptor) == PVIRQ_HOST_BLOCKED));
	EXPECT_TRUE(is_running(&self->runner));
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
	EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(self->descriptor));
	EXPECT_EQ(0, STATISTIC("forced-exits"));
}

/*
 * Posts to a vCPU that is off its CPU, again and again. No sender kicks it: it
 * must come by itself, and its VMM must notice nothing but the interrupts.
 */
TEST_F(delivery, posted_while_preempted)
{
	struct contender contender;
	int i;

	pin(1);
	LOAD(guest_wait);
	contender_start(&contender);
	repeat(i, ROUNDS) {
		runner_start(&self->runner, &self->vcpu);
		ASSERT_TRUE(eventually(host_state(self->descriptor) == PVIRQ_HOST_PREEMPTED));
		post(self->descriptor, VECTOR);
		ASSERT_TRUE(eventually(!is_running(&self->runner)))
			TH_LOG("round %d: state %u, pending %d", i, host_state(self->descriptor),
			       is_pending(self->descriptor, VECTOR));
		ASSERT_EQ(0, runner_wait(&self->runner));
		ASSERT_EQ(0x77, *(uint8_t *)vcpu_io_data(&self->vcpu));
		vcpu_end_interrupts(&self->vcpu);
	}
	contender_stop(&contender);
	EXPECT_EQ(i, STATISTIC("injected"));
	/* It may be preempted when it has not looked yet, and needs no force then, but not every time. */
	EXPECT_GE(STATISTIC("forced-exits"), i / 10);
}

/* Whether a vCPU whose thread shares its CPU is said to be preempted, now and then, in the next 100 ms. */
static bool is_seen_preempted(struct runner *runner, struct vcpu *vcpu, volatile struct pvirq_descriptor *descriptor)
{
	uint64_t start = now();
	bool seen = false;

	runner_start(runner, vcpu);
	while (now() - start < 100000000)
		seen |= host_state(descriptor) == PVIRQ_HOST_PREEMPTED;
	if (runner_stop(runner) != -EINTR)
		die("the guest has done something");
	return seen;
}

/* In 32-bit protected mode. */
GUEST(guest_loop,
	"1:	jmp	1b\n");

/* A parameter of KVM's module for Intel's CPUs is set; not if the module is not there. */
static bool has_intel_parameter(const char *name)
{
	char path[64], value = 'N';
	int file;

	snprintf(path, sizeof(path), "/sys/module/kvm_intel/parameters/%s", name);
	file = open(path, O_RDONLY);
	if (file >= 0 && read(file, &value, 1) != 1)
		die("cannot read %s", path);
	close(file);
	return value != 'N' && value != '0';
}

/*
 * KVM has vCPUs that spin yield to one that is preempted in user mode if it has an interrupt. With APICv it sees that, but
 * does not see what is posted: such a vCPU is interrupted.
 */
TEST_F(delivery, preempted_in_user_mode)
{
	const bool interrupted = has_intel_parameter("enable_apicv") && has_intel_parameter("ple_gap");
	struct contender contender;

	pin(1);
	contender_start(&contender);
	for (int level = 0; level <= 3; level += 3) {
		LOAD(guest_loop);
		vcpu_set_privilege(&self->vcpu, level);
		EXPECT_EQ(level == 0 || !interrupted, is_seen_preempted(&self->runner, &self->vcpu, self->descriptor))
			TH_LOG("privilege level %d", level);
	}
	contender_stop(&contender);
}

/* A signal ends KVM_RUN, whatever the scheduler makes of the vCPU at the same time. */
TEST_F(delivery, signals_are_the_vmms)
{
	struct contender contender;
	int i;

	pin(1);
	LOAD(guest_wait);
	contender_start(&contender);
	repeat(i, ROUNDS) {
		runner_start(&self->runner, &self->vcpu);
		ASSERT_TRUE(eventually(host_state(self->descriptor) == PVIRQ_HOST_PREEMPTED));
		/* Reserved: it forces the vCPU out, and then there is nothing to deliver. */
		post(self->descriptor, 1);
		ASSERT_EQ(0, pthread_kill(self->runner.thread, SIGUSR1));
		ASSERT_EQ(-EINTR, runner_wait(&self->runner));
		ASSERT_EQ(KVM_EXIT_INTR, self->vcpu.run->exit_reason);
	}
	contender_stop(&contender);
}

TEST_F(delivery, immediate_exit_is_the_vmms)
{
	LOAD(guest_wait);
	post(self->descriptor, VECTOR);
	self->vcpu.run->immediate_exit = 1;
	EXPECT_EQ(-EINTR, vcpu_run(&self->vcpu));
	self->vcpu.run->immediate_exit = 0;
	EXPECT_HANDLED(0x77);
}

/* KVM does not run a vCPU in another process, so nothing may be taken out of the descriptor there. */
TEST_F(delivery, another_process_takes_nothing)
{
	pid_t child;
	int status;

	LOAD(guest_sleep);
	post(self->descriptor, VECTOR);
	child = fork();
	if (!child)
		_exit(vcpu_run(&self->vcpu) != -EIO);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(is_pending(self->descriptor, VECTOR));
	EXPECT_HANDLED(0x77);
}

/* A guest that sets bits without end gets no more than it asks for, and its VMM keeps it under control. */
static void *post_without_end(void *data)
{
	FIXTURE_DATA(delivery) *self = data;

	pin(1);
	while (is_running(&self->runner))
		for (int word = 0; word < 4; word++)
			__atomic_store_n(&self->descriptor->pending[word], ~0ULL, __ATOMIC_RELAXED);
	return NULL;
}

GUEST(guest_handler_ignore,
	"	iret\n");

TEST_F(delivery, posts_without_end)
{
	struct contender contender;
	pthread_t poster;

	for (int vector = PVIRQ_FIRST_VECTOR; vector < 256; vector++)
		vm_set_handler(&self->vm, vector, guest_handler_ignore);
	LOAD(guest_wait);
	runner_start(&self->runner, &self->vcpu);
	ASSERT_EQ(0, pthread_create(&poster, NULL, post_without_end, self));
	/* Each time that it is preempted it finds more. */
	pin(1);
	contender_start(&contender);
	EXPECT_TRUE(eventually(STATISTIC("drains") >= 50));
	contender_stop(&contender);
	EXPECT_TRUE(is_running(&self->runner));
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
	ASSERT_EQ(0, pthread_join(poster, NULL));
}

TEST_HARNESS_MAIN
