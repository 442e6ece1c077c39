// SPDX-License-Identifier: GPL-2.0
/* What a VMM finds when it saves a vCPU: nothing that was posted is anywhere but in the state that KVM gives it. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "injection.h"

FIXTURE(saved)
{
	struct vm vm;
	struct vcpu vcpu;
	volatile struct pvirq_descriptor *descriptor;
	struct runner runner;
};

FIXTURE_SETUP(saved)
{
	posting_open(&self->vm, &self->vcpu);
	self->descriptor = descriptor(&self->vm, 0);
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, DESCRIPTORS, 1));
}

FIXTURE_TEARDOWN(saved)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

/* Whether a vector is in the interrupt request register: 32 bits in every 16 bytes. */
static bool is_requested(const struct kvm_lapic_state *lapic, unsigned int vector)
{
	uint32_t word;

	memcpy(&word, lapic->regs + 0x200 + vector / 32 * 16, sizeof(word));
	return word >> vector % 32 & 1;
}

/* The vCPU has exited for I/O, and will look; then something is posted. */
#define POST_OUTSIDE()								\
	do {									\
		GO_OUTSIDE();							\
		ASSERT_EQ(PVIRQ_HOST_OUTSIDE, host_state(self->descriptor));	\
		ASSERT_FALSE(post(self->descriptor, VECTOR));			\
	} while (0)

/* No vCPU will poll, and no bit is left. */
#define EXPECT_SETTLED()							\
	do {									\
		EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(self->descriptor));	\
		EXPECT_FALSE(is_pending(self->descriptor, VECTOR));		\
	} while (0)

TEST_F(saved, after_an_immediate_exit)
{
	POST_OUTSIDE();
	self->vcpu.run->immediate_exit = 1;
	EXPECT_EQ(-EINTR, vcpu_run(&self->vcpu));
	self->vcpu.run->immediate_exit = 0;
	EXPECT_SETTLED();
	EXPECT_HANDLED(0x77);
}

TEST_F(saved, after_a_signal)
{
	struct contender contender;

	LOAD(guest_wait);
	pin(1);
	contender_start(&contender);
	runner_start(&self->runner, &self->vcpu);
	ASSERT_TRUE(eventually(host_state(self->descriptor) == PVIRQ_HOST_PREEMPTED));
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
	contender_stop(&contender);
	EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(self->descriptor));
}

TEST_F(saved, after_an_error)
{
	POST_OUTSIDE();
	EXPECT_EQ(-1, ioctl(self->vcpu.fd, KVM_RUN, 1));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_SETTLED();
	EXPECT_HANDLED(0x77);
}

/* An exception without a handler, nor one for that. */
GUEST(guest_shut_down,
	"	lidt	%cs:1f-guest_shut_down+" STR(GUEST_CODE) "\n"
	"	int3\n"
	"1:	.word	0\n"
	"	.long	0\n");

TEST_F(saved, after_a_shutdown)
{
	LOAD(guest_shut_down);
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(KVM_EXIT_SHUTDOWN, self->vcpu.run->exit_reason);
	EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(self->descriptor));
}

GUEST(guest_mmio,
	"	movb	$1, %es:0\n"
	"	hlt\n");

TEST_F(saved, not_after_mmio)
{
	LOAD(guest_mmio);
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(KVM_EXIT_MMIO, self->vcpu.run->exit_reason);
	EXPECT_EQ(PVIRQ_HOST_OUTSIDE, host_state(self->descriptor));
}

/* An MSR that there is not. */
GUEST(guest_msr,
	"	mov	$0x12345, %ecx\n"
	"	rdmsr\n"
	"	wrmsr\n"
	"	hlt\n");

TEST_F(saved, not_after_msrs_of_the_vmms)
{
	struct kvm_enable_cap msrs = {
		.cap = KVM_CAP_X86_USER_SPACE_MSR,
		.args = { KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL },
	};

	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_ENABLE_CAP, &msrs));
	LOAD(guest_msr);
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(KVM_EXIT_X86_RDMSR, self->vcpu.run->exit_reason);
	EXPECT_EQ(PVIRQ_HOST_OUTSIDE, host_state(self->descriptor));
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(KVM_EXIT_X86_WRMSR, self->vcpu.run->exit_reason);
	EXPECT_EQ(PVIRQ_HOST_OUTSIDE, host_state(self->descriptor));
}

TEST_F(saved, in_the_local_apic)
{
	struct kvm_lapic_state lapic;

	POST_OUTSIDE();
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_LAPIC, &lapic));
	EXPECT_TRUE(is_requested(&lapic, VECTOR));
	EXPECT_SETTLED();
	EXPECT_HANDLED(0x77);
	/* One that is posted afterwards waits for no one. */
	vcpu_end_interrupts(&self->vcpu);
	EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(self->descriptor));
}

TEST_F(saved, in_the_events)
{
	struct kvm_vcpu_events events;

	POST_OUTSIDE();
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_VCPU_EVENTS, &events));
	EXPECT_SETTLED();
	EXPECT_HANDLED(0x77);
}

TEST_F(saved, in_the_mp_state)
{
	struct kvm_mp_state state;

	POST_OUTSIDE();
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_MP_STATE, &state));
	EXPECT_SETTLED();
	EXPECT_HANDLED(0x77);
}

/* As with KVM's irqfd: what came while no thread ran the vCPU is in its local APIC, wherever the vCPU was. */
TEST_F(saved, from_eventfds)
{
	struct kvm_lapic_state lapic;
	int source = eventfd_open();

	ASSERT_EQ(0, try_bind(&self->vm, TO_VCPU(source, 0, VECTOR)));
	for (int outside = 0; outside < 2; outside++) {
		if (outside) {
			GO_OUTSIDE();
		} else {
			LOAD(guest_out_sleep);
			ASSERT_EQ(PVIRQ_HOST_RUNNING, host_state(self->descriptor));
		}
		eventfd_signal(source);
		ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_LAPIC, &lapic));
		EXPECT_TRUE(is_requested(&lapic, VECTOR))
			TH_LOG("outside %d", outside);
		if (!outside)
			EXPECT_HANDLED(0x55);
		EXPECT_HANDLED(0x77);
		vcpu_end_interrupts(&self->vcpu);
	}
	close(source);
}

/* And for a vCPU without a descriptor. */
TEST_F(saved, from_eventfds_without_descriptors)
{
	struct kvm_lapic_state lapic;
	int source = eventfd_open();

	ASSERT_EQ(0, try_bind(&self->vm, TO_VCPU(source, 0, VECTOR)));
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_UNREGISTER));
	LOAD(guest_sleep);
	eventfd_signal(source);
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_LAPIC, &lapic));
	EXPECT_TRUE(is_requested(&lapic, VECTOR));
	EXPECT_HANDLED(0x77);
	close(source);
}

/* A vCPU whose state is replaced has what it is given, and not what was posted before. */
TEST_F(saved, replaced_with_what_was_posted)
{
	struct kvm_lapic_state before, after;
	int source = eventfd_open();

	ASSERT_EQ(0, try_bind(&self->vm, TO_VCPU(source, 0, VECTOR)));
	GO_OUTSIDE();
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_LAPIC, &before));
	ASSERT_FALSE(is_requested(&before, VECTOR));
	post(self->descriptor, HIGHER);
	eventfd_signal(source);
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_LAPIC, &before));
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_LAPIC, &after));
	EXPECT_FALSE(is_requested(&after, VECTOR));
	EXPECT_FALSE(is_requested(&after, HIGHER));
	EXPECT_FALSE(is_pending(self->descriptor, HIGHER));
	close(source);
}

struct saver {
	struct vcpu *vcpu;
	pthread_t thread;
	volatile bool done;
};

static void *save(void *data)
{
	struct saver *saver = data;
	struct kvm_lapic_state lapic;

	if (ioctl(saver->vcpu->fd, KVM_GET_LAPIC, &lapic))
		die("KVM_GET_LAPIC");
	saver->done = true;
	return NULL;
}

/* As in KVM, a call for a vCPU's state waits for the end of KVM_RUN. */
TEST_F(saved, when_it_does_not_run)
{
	struct saver saver = { .vcpu = &self->vcpu };

	LOAD(guest_sleep);
	pin(1);
	runner_start(&self->runner, &self->vcpu);
	ASSERT_TRUE(eventually(host_state(self->descriptor) == PVIRQ_HOST_BLOCKED));
	ASSERT_EQ(0, pthread_create(&saver.thread, NULL, save, &saver));
	usleep(10000);
	EXPECT_FALSE(saver.done);
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
	ASSERT_TRUE(eventually(saver.done));
	ASSERT_EQ(0, pthread_join(saver.thread, NULL));
}

/* And can be killed meanwhile. */
TEST(waits_for_the_vcpu_and_is_killed)
{
	volatile bool *blocked = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int references = file_references(), status;
	pid_t pid;

	ASSERT_NE(MAP_FAILED, blocked);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		struct { struct vm vm; struct vcpu vcpu; } child, *self = &child;
		struct kvm_regs regs = { .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2 };
		struct runner runner;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		posting_open(&self->vm, &self->vcpu);
		if (guest_register(&self->vm, &self->vcpu, DESCRIPTORS, 1))
			_exit(1);
		vm_write(&self->vm, GUEST_CODE, guest_sleep, guest_sleep_end - guest_sleep);
		if (ioctl(self->vcpu.fd, KVM_SET_REGS, &regs))
			_exit(2);
		runner_start(&runner, &self->vcpu);
		if (!eventually(host_state(descriptor(&self->vm, 0)) == PVIRQ_HOST_BLOCKED))
			_exit(3);
		*blocked = true;
		save(&(struct saver){ .vcpu = &self->vcpu });
		_exit(4);
	}
	ASSERT_TRUE(eventually(*blocked));
	ASSERT_TRUE(eventually(thread_state(pid) == 'D'));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_FILES(references);
}

TEST_HARNESS_MAIN
