// SPDX-License-Identifier: GPL-2.0
/* A VMM is killed at any moment, and nothing is left of it. */
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "vm.h"

/* VMMs that are killed in each test. */
#define KILLS	repeats(50)

/* vCPUs of each VM that is created. */
#define VCPUS	3

/* Descriptors that the racing threads of a VMM meddle with. */
#define FIRST_FD	10
#define FDS		16

/* Counts where ES points to. */
GUEST(guest_count_outside,
	"1:	incl	%es:0\n"
	"	jmp	1b\n");

/* What the VMM has done so far, in memory that it shares with the test. */
static volatile uint32_t *progress;

static void step(void)
{
	__atomic_add_fetch(progress, 1, __ATOMIC_RELAXED);
}

/*
 * Creates VMs and vCPUs for ever, and maps them. Other threads may take descriptors away, so errors do not matter. What a
 * round has made goes in the next one: however late the VMM is killed, it has a few of them.
 */
static void *create(void *argument)
{
	void *maps[VCPUS] = { MAP_FAILED, MAP_FAILED, MAP_FAILED };
	int device = device_open(PVIRQ_DEVICE), vm = -1, vcpu = -1;

	for (;;) {
		int last_vm = vm, last_vcpu = vcpu;

		vm = ioctl(device, KVM_CREATE_VM, 0);
		for (int id = 0; id < VCPUS; id++) {
			int fd = ioctl(vm, KVM_CREATE_VCPU, id);

			if (maps[id] != MAP_FAILED)
				munmap(maps[id], PAGE_SIZE);
			maps[id] = mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
			step();
			if (id)
				close(fd);
			else
				vcpu = fd;
		}
		if (vm % 2) {
			close(vm);
			vm = -1;
		}
		close(last_vm);
		close(last_vcpu);
	}
	return NULL;
}

static void live_creating(void)
{
	create(NULL);
}

/* Runs a guest, whose counting is the progress. */
static void live_running(void)
{
	struct vcpu vcpu;
	struct vm vm;

	vm_open(&vm, PVIRQ_DEVICE);
	vm_map_memory(&vm, 1, GUEST_MMIO, (void *)progress, PAGE_SIZE, 0);
	vcpu_open(&vm, &vcpu, 0);
	vcpu_load(&vm, &vcpu, guest_count_outside);
	for (;;)
		vcpu_run(&vcpu);
}

/* Halts in the kernel. */
static void live_halted(void)
{
	struct vcpu vcpu;
	struct vm vm;

	vm_open(&vm, PVIRQ_DEVICE);
	step();
	vm_create_irqchip(&vm);
	step();
	vcpu_open(&vm, &vcpu, 0);
	step();
	vcpu_load(&vm, &vcpu, guest_halt);
	step();
	for (;;)
		vcpu_run(&vcpu);
}

/* Puts other files under the numbers that creations return, and closes them. */
static void *meddle(void *argument)
{
	unsigned int seed = getpid();
	int event = eventfd(0, EFD_CLOEXEC);

	for (;;) {
		int fd = FIRST_FD + rand_r(&seed) % FDS;

		if (rand_r(&seed) % 2)
			dup2(event, fd);
		else
			close(fd);
	}
	return NULL;
}

static void live_racing(void)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, create, NULL) || pthread_create(&thread, NULL, meddle, NULL))
		die("pthread_create");
	create(NULL);
}

FIXTURE(kill)
{
	unsigned int seed;
	int files;
};

FIXTURE_VARIANT(kill)
{
	void (*live)(void);
	/* The VMM is killed when it has made fewer steps than this. */
	unsigned int steps;
};

FIXTURE_VARIANT_ADD(kill, creating)
{
	.live = live_creating,
	.steps = 20,
};

FIXTURE_VARIANT_ADD(kill, running)
{
	.live = live_running,
	.steps = 100000,
};

FIXTURE_VARIANT_ADD(kill, halted)
{
	.live = live_halted,
	.steps = 5,
};

FIXTURE_VARIANT_ADD(kill, racing)
{
	.live = live_racing,
	.steps = 20,
};

FIXTURE_SETUP(kill)
{
	self->seed = now();
	self->files = file_references();
	progress = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_TRUE(progress != MAP_FAILED);
}

/* Nothing is left of the VMMs. */
FIXTURE_TEARDOWN(kill)
{
	EXPECT_FILES(self->files);
	if (is_overlay(PVIRQ_DEVICE))
		EXPECT_VMS(0, 0);
}

TEST_F(kill, at_a_random_moment)
{
	unsigned int seed = self->seed;
	int i;

	repeat(i, KILLS) {
		unsigned int target = rand_r(&seed) % variant->steps;
		int status;
		pid_t child;

		*progress = 0;
		child = fork();
		if (!child) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			variant->live();
		}
		ASSERT_TRUE(eventually(*progress >= target))
			TH_LOG("the VMM has made %u of %u steps, seed %u", *progress, target, self->seed);
		/* It has just made a step; the next moments are as good. */
		for (int pause = rand_r(&seed) % 20; pause; pause--)
			sched_yield();
		ASSERT_EQ(0, kill(child, SIGKILL));
		ASSERT_EQ(child, waitpid(child, &status, 0));
		ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
			TH_LOG("the VMM ended by itself with status %#x, seed %u", status, self->seed);
	}
}

TEST_HARNESS_MAIN
