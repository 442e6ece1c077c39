// SPDX-License-Identifier: GPL-2.0
/*
 * Threads that create VMs and vCPUs while others close descriptors and put
 * other files under their numbers.
 *
 * Between KVM's creation of a file and the call's return, other threads can
 * see KVM's own file under the number. It must not stay there.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "vm.h"

#define THREADS		3
#define ROUNDS		repeats(100)

/* Numbers that other threads meddle with; nothing else has one of them. */
#define FIRST_FD	20
#define FDS		24

/*
 * What creators leave behind they leave in laps of a few rounds, after which it is looked at and closed. So they never have
 * more than this many descriptors, though the threads that close some may get a CPU late.
 */
#define LAP		4
#define VCPUS		4
#define MOST_FDS	(FDS + THREADS * LAP * (1 + VCPUS))

FIXTURE(race)
{
	int device;
	int event;
	int files;
	volatile bool stop;
	volatile int raw;
	/* Threads that meddle, and how often a creator has noticed. */
	int meddlers;
	int hits;
};

ON_BOTH_DEVICES(race);

FIXTURE_SETUP(race)
{
	self->files = file_references();
	self->device = device_open(variant->device);
	self->event = eventfd(0, EFD_CLOEXEC);
	ASSERT_LE(0, self->event);
	/* What a creation returns is one of the numbers. */
	for (int fd = fd_lowest_free(); fd < FIRST_FD; fd++)
		ASSERT_EQ(fd, dup(self->event));
}

FIXTURE_TEARDOWN(race)
{
	ASSERT_EQ(0, close_range(self->device, ~0U, 0));
	EXPECT_FILES(self->files);
	if (is_overlay(variant->device))
		EXPECT_VMS(0, 0);
}

static bool vcpu_is_wrapped(int vcpu)
{
	char runs[32];

	return !!fdinfo(vcpu, "pvirq-runs", runs, sizeof(runs));
}

/* The vCPUs of a VM show whether it is the overlay's: there is an id that is still free. */
static bool vm_is_wrapped(int vm)
{
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 1000);
	bool wrapped;

	if (vcpu < 0)
		die("KVM_CREATE_VCPU on VM %d", vm);
	wrapped = vcpu_is_wrapped(vcpu);
	close(vcpu);
	return wrapped;
}

static void start(pthread_t *threads, int count, void *(*function)(void *), void *argument)
{
	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, function, argument))
			die("pthread_create");
}

static void join(pthread_t *threads, int count)
{
	for (int i = 0; i < count; i++)
		if (pthread_join(threads[i], NULL))
			die("pthread_join");
}

/* Creates, and looks at what it gets. No other thread meddles. */
static void *create_and_check(void *argument)
{
	FIXTURE_DATA(race) *self = argument;

	for (int i = 0; i < ROUNDS; i++) {
		int vm = ioctl(self->device, KVM_CREATE_VM, 0);
		int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);

		if (vm < 0 || vcpu < 0)
			die("VM %d, vCPU %d", vm, vcpu);
		if (!vcpu_is_wrapped(vcpu))
			__atomic_add_fetch(&self->raw, 1, __ATOMIC_RELAXED);
		close(vcpu);
		close(vm);
	}
	return NULL;
}

TEST_F(race, creators)
{
	pthread_t threads[THREADS];

	start(threads, THREADS, create_and_check, self);
	join(threads, THREADS);
	if (is_overlay(variant->device)) {
		EXPECT_EQ(0, self->raw);
	} else {
		EXPECT_EQ(THREADS * ROUNDS, self->raw);
	}
}

/* Creates, and does not know whether the numbers are its own still. */
static void *create_blindly(void *argument)
{
	FIXTURE_DATA(race) *self = argument;

	for (int i = 0; i < LAP; i++) {
		int vm = ioctl(self->device, KVM_CREATE_VM, 0);

		for (int id = 0; id < VCPUS; id++)
			if (ioctl(vm, KVM_CREATE_VCPU, id) < 0)
				__atomic_add_fetch(&self->hits, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

/* Closes descriptors, and puts other files under their numbers. */
static void *meddle(void *argument)
{
	FIXTURE_DATA(race) *self = argument;
	unsigned int seed = now();

	__atomic_add_fetch(&self->meddlers, 1, __ATOMIC_RELAXED);
	while (!self->stop) {
		int fd = FIRST_FD + rand_r(&seed) % FDS;

		if (rand_r(&seed) % 2)
			dup2(self->event, fd);
		else
			close(fd);
	}
	return NULL;
}

/* What a lap has left, and of that, what is not as it should be. */
struct left {
	int vms, vcpus, wrong;
};

static void look(struct left *left, bool wrapped)
{
	for (int fd = FIRST_FD; fd < FIRST_FD + MOST_FDS; fd++) {
		char name[64];

		fd_name(fd, name, sizeof(name));
		if (!strncmp(name, "anon_inode:kvm-vcpu:", 20)) {
			left->wrong += vcpu_is_wrapped(fd) != wrapped;
			left->vcpus++;
		} else if (!strcmp(name, "anon_inode:kvm-vm")) {
			left->wrong += vm_is_wrapped(fd) != wrapped;
			left->vms++;
		}
	}
}

TEST_F(race, creators_and_meddlers)
{
	pthread_t creators[THREADS], meddlers[THREADS];
	int laps, descriptors = fd_count();
	uint64_t begin = now();
	struct left left = {};

	/* On one CPU threads may take turns without a collision, but not every time. */
	for (laps = 0; more_rounds(begin, laps, ROUNDS / LAP) || !self->hits; laps++) {
		self->stop = false;
		self->meddlers = 0;
		start(meddlers, THREADS, meddle, self);
		ASSERT_TRUE(eventually(__atomic_load_n(&self->meddlers, __ATOMIC_RELAXED) == THREADS));
		start(creators, THREADS, create_blindly, self);
		join(creators, THREADS);
		self->stop = true;
		join(meddlers, THREADS);

		look(&left, is_overlay(variant->device));
		ASSERT_EQ(0, left.wrong);
		ASSERT_EQ(0, close_range(FIRST_FD, FIRST_FD + MOST_FDS - 1, 0));
		/* Those were all. */
		ASSERT_EQ(descriptors, fd_count());
	}
	TH_LOG("%d VMs and %d vCPUs were left in %d laps; creators were hit %d times", left.vms, left.vcpus, laps,
	       self->hits);
}

/* Children get a copy of the descriptors at any moment, and give it back. */
static void *create_until_stopped(void *argument)
{
	FIXTURE_DATA(race) *self = argument;

	while (!self->stop) {
		int vm = ioctl(self->device, KVM_CREATE_VM, 0);

		close(ioctl(vm, KVM_CREATE_VCPU, 0));
		close(vm);
	}
	return NULL;
}

TEST_F(race, fork)
{
	pthread_t creator;

	start(&creator, 1, create_until_stopped, self);
	for (int i = 0; i < ROUNDS; i++) {
		pid_t child = fork();
		int status;

		if (!child)
			_exit(0);
		ASSERT_EQ(child, waitpid(child, &status, 0));
	}
	self->stop = true;
	join(&creator, 1);
}

/* Threads that run one vCPU get in each other's way, but not into the guest at the same time. */
static void *run_many_times(void *argument)
{
	for (int i = 0; i < ROUNDS; i++)
		if (vcpu_run(argument))
			die("KVM_RUN");
	return NULL;
}

TEST_F(race, runners)
{
	pthread_t threads[THREADS];
	char runs[32] = "";
	struct vcpu vcpu;
	struct vm vm;

	vm_open(&vm, variant->device);
	vcpu_open(&vm, &vcpu, 0);
	vcpu_load(&vm, &vcpu, guest_count_out);
	start(threads, THREADS, run_many_times, &vcpu);
	join(threads, THREADS);
	ASSERT_EQ(0, vcpu_run(&vcpu));
	EXPECT_EQ(THREADS * ROUNDS, *(uint32_t *)vcpu_io_data(&vcpu));
	if (is_overlay(variant->device)) {
		EXPECT_TRUE(!!fdinfo(vcpu.fd, "pvirq-runs", runs, sizeof(runs)));
		EXPECT_EQ(THREADS * ROUNDS + 1, atoi(runs));
	}
	vcpu_close(&vcpu);
	vm_close(&vm);
}

/* The descriptors of a VM are closed while its guest runs: it runs on. */
static void *run_until_error(void *argument)
{
	return (void *)(intptr_t)vcpu_run(argument);
}

static void ignore(int signal)
{
}

TEST_F(race, close_while_running)
{
	struct sigaction action = { .sa_handler = ignore };
	struct vcpu vcpu;
	pthread_t thread;
	uint32_t before;
	void *result;
	struct vm vm;

	ASSERT_EQ(0, sigaction(SIGUSR1, &action, NULL));
	vm_open(&vm, variant->device);
	vcpu_open(&vm, &vcpu, 0);
	vcpu_load(&vm, &vcpu, guest_count);
	start(&thread, 1, run_until_error, &vcpu);
	ASSERT_TRUE(eventually(guest_counter(&vm)));
	close(vcpu.fd);
	close(vm.fd);
	close(vm.device);
	before = guest_counter(&vm);
	EXPECT_TRUE(eventually(guest_counter(&vm) != before));
	ASSERT_EQ(0, pthread_kill(thread, SIGUSR1));
	ASSERT_EQ(0, pthread_join(thread, &result));
	EXPECT_EQ(-EINTR, (intptr_t)result);
	munmap(vcpu.run, vcpu.run_size);
	munmap(vm.memory, GUEST_MEMORY);
}

/* The VM that KVM_CAP_VM_COPY_ENC_CONTEXT_FROM names comes and goes meanwhile. */
struct source {
	int vm;
	int number;
	int event;
	volatile bool *stop;
};

static void *change_source(void *argument)
{
	struct source *source = argument;
	unsigned int seed = now();

	while (!*source->stop)
		switch (rand_r(&seed) % 3) {
		case 0:
			dup2(source->vm, source->number);
			break;
		case 1:
			dup2(source->event, source->number);
			break;
		case 2:
			close(source->number);
		}
	return NULL;
}

TEST_F(race, enc_context)
{
	struct source source = { .event = self->event, .number = FIRST_FD + FDS, .stop = &self->stop };
	pthread_t thread;
	int vm;

	vm = ioctl(self->device, KVM_CREATE_VM, 0);
	source.vm = ioctl(self->device, KVM_CREATE_VM, 0);
	ASSERT_LE(0, source.vm);
	start(&thread, 1, change_source, &source);
	for (int i = 0; i < 20 * ROUNDS; i++) {
		struct kvm_enable_cap cap = {
			.cap = KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
			.args = { source.number },
		};

		ASSERT_EQ(-1, ioctl(vm, KVM_ENABLE_CAP, &cap));
		ASSERT_TRUE(errno == EINVAL || errno == EBADF)
			TH_LOG("errno %d", errno);
	}
	self->stop = true;
	join(&thread, 1);
	EXPECT_EQ(is_overlay(variant->device), vm_is_wrapped(source.vm));
	EXPECT_EQ(is_overlay(variant->device), vm_is_wrapped(vm));
}

TEST_HARNESS_MAIN
