// SPDX-License-Identifier: GPL-2.0
/* KVM_RUN and signals: it returns with EINTR, and the guest loses nothing. */
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"
#include "vm.h"

/* How often a signal must have hit KVM_RUN. */
#define HITS	50

/* The kernel's own sigset has 64 bits. */
#define SIGSET_SIZE	8

FIXTURE(signal)
{
	struct vm vm;
	struct vcpu vcpu;
};

ON_BOTH_DEVICES(signal);

static volatile sig_atomic_t handled;

static void handle(int signal)
{
	handled++;
}

static void install_handler(int signal, int flags)
{
	struct sigaction action = { .sa_handler = handle, .sa_flags = flags };

	if (sigaction(signal, &action, NULL))
		die("sigaction");
}

FIXTURE_SETUP(signal)
{
	vm_open(&self->vm, variant->device);
	vcpu_open(&self->vm, &self->vcpu, 0);
	vcpu_load(&self->vm, &self->vcpu, guest_count);
	handled = 0;
}

FIXTURE_TEARDOWN(signal)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

/* Waits until the guest has counted on from here. */
static bool guest_runs(struct vm *vm)
{
	uint32_t before = guest_counter(vm);

	return eventually(guest_counter(vm) != before);
}

static void *run_until_error(void *argument)
{
	int ret;

	do
		ret = vcpu_run(argument);
	while (!ret);
	return (void *)(intptr_t)ret;
}

TEST_F(signal, from_another_thread)
{
	install_handler(SIGUSR1, 0);
	for (int i = 1; i <= HITS; i++) {
		pthread_t thread;
		void *result;

		ASSERT_EQ(0, pthread_create(&thread, NULL, run_until_error, &self->vcpu));
		ASSERT_TRUE(guest_runs(&self->vm))
			TH_LOG("the guest does not run");
		ASSERT_EQ(0, pthread_kill(thread, SIGUSR1));
		ASSERT_EQ(0, pthread_join(thread, &result));
		ASSERT_EQ(-EINTR, (intptr_t)result);
		ASSERT_EQ(KVM_EXIT_INTR, self->vcpu.run->exit_reason);
		ASSERT_EQ(i, handled);
	}
}

/* KVM_RUN is not restarted, whatever the handler's flags say. */
TEST_F(signal, is_not_restarted)
{
	pthread_t thread;
	void *result;

	install_handler(SIGUSR1, SA_RESTART);
	ASSERT_EQ(0, pthread_create(&thread, NULL, run_until_error, &self->vcpu));
	ASSERT_TRUE(guest_runs(&self->vm));
	ASSERT_EQ(0, pthread_kill(thread, SIGUSR1));
	ASSERT_EQ(0, pthread_join(thread, &result));
	ASSERT_EQ(-EINTR, (intptr_t)result);
}

/* A timer goes off in KVM_RUN and between two of them, and no output is lost or repeated. */
TEST_F(signal, timer)
{
	struct itimerspec interval = {
		.it_interval.tv_nsec = 3000000,
		.it_value.tv_nsec = 3000000,
	};
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM };
	int interruptions = 0;
	uint32_t expected = 0;
	timer_t timer;

	install_handler(SIGALRM, 0);
	vcpu_load(&self->vm, &self->vcpu, guest_count_out);
	ASSERT_EQ(0, timer_create(CLOCK_MONOTONIC, &event, &timer));
	ASSERT_EQ(0, timer_settime(timer, 0, &interval, NULL));
	while (interruptions < HITS) {
		int ret = vcpu_run(&self->vcpu);

		if (ret) {
			ASSERT_EQ(-EINTR, ret);
			interruptions++;
			continue;
		}
		ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);
		ASSERT_EQ(expected, *(uint32_t *)vcpu_io_data(&self->vcpu));
		expected++;
	}
	ASSERT_GE(handled, interruptions);
	ASSERT_EQ(0, timer_delete(timer));
}

/* A signal that waits already keeps KVM from entering the guest. */
TEST_F(signal, pending)
{
	sigset_t set, none;
	struct {
		struct kvm_signal_mask header;
		unsigned char set[SIGSET_SIZE];
	} mask = { .header.len = SIGSET_SIZE };

	install_handler(SIGUSR1, 0);
	sigemptyset(&none);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, &set, NULL));
	ASSERT_EQ(0, raise(SIGUSR1));

	/* KVM_RUN swaps the mask for one that blocks nothing. */
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_SIGNAL_MASK, &mask));
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(-EINTR, vcpu_run(&self->vcpu));
		ASSERT_EQ(KVM_EXIT_INTR, self->vcpu.run->exit_reason);
	}
	/* The signal waits still, and the thread's own mask is back. */
	ASSERT_EQ(0, handled);
	ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, NULL, &none));
	ASSERT_EQ(1, sigismember(&none, SIGUSR1));
	ASSERT_EQ(0, sigpending(&set));
	ASSERT_EQ(1, sigismember(&set, SIGUSR1));
	ASSERT_EQ(0, guest_counter(&self->vm));

	/* Without a mask of its own, KVM_RUN runs with the thread's, and the signal does not matter. */
	vcpu_load(&self->vm, &self->vcpu, guest_count_out);
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_SIGNAL_MASK, NULL));
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);
}

/* A mask of KVM_RUN's that blocks what the thread does not. */
TEST_F(signal, masked)
{
	struct {
		struct kvm_signal_mask header;
		unsigned char set[SIGSET_SIZE];
	} mask = { .header.len = SIGSET_SIZE };
	pthread_t thread;
	void *result;

	install_handler(SIGUSR1, 0);
	install_handler(SIGUSR2, 0);
	mask.header.sigset[(SIGUSR1 - 1) / 8] = 1 << (SIGUSR1 - 1) % 8;
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_SIGNAL_MASK, &mask));
	ASSERT_EQ(0, pthread_create(&thread, NULL, run_until_error, &self->vcpu));
	ASSERT_TRUE(guest_runs(&self->vm));
	ASSERT_EQ(0, pthread_kill(thread, SIGUSR1));
	ASSERT_TRUE(guest_runs(&self->vm));
	ASSERT_EQ(0, handled);
	ASSERT_EQ(0, pthread_kill(thread, SIGUSR2));
	ASSERT_EQ(0, pthread_join(thread, &result));
	ASSERT_EQ(-EINTR, (intptr_t)result);
	/* And now the other one is handled, too. */
	ASSERT_EQ(2, handled);
}

/* A VMM in a process of its own, which only ever runs its vCPU. */
static pid_t spawn_vmm(struct vm *vm, struct vcpu *vcpu, const char *device)
{
	pid_t child = fork();

	if (child)
		return child;
	/* A test that fails leaves no process behind that takes the next ones' time. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* The memory is shared, and what is counted there is seen in both processes. */
	vm->device = device_open(device);
	vm->fd = ioctl(vm->device, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		die("KVM_CREATE_VM");
	vm_map_memory(vm, 0, 0, vm->memory, GUEST_MEMORY, 0);
	vcpu_open(vm, vcpu, 0);
	vcpu_load(vm, vcpu, guest_count);
	for (;;) {
		int ret = vcpu_run(vcpu);

		if (ret && ret != -EINTR)
			die("KVM_RUN returned %d", ret);
	}
}

/* The guest of a VMM that is stopped does not run, and then goes on. */
TEST_F(signal, stop_and_continue)
{
	pid_t child = spawn_vmm(&self->vm, &self->vcpu, variant->device);
	int status;

	for (int i = 0; i < 20; i++) {
		uint32_t stopped;

		ASSERT_TRUE(guest_runs(&self->vm))
			TH_LOG("the guest does not run");
		ASSERT_EQ(0, kill(child, SIGSTOP));
		ASSERT_EQ(child, waitpid(child, &status, WUNTRACED));
		ASSERT_TRUE(WIFSTOPPED(status));
		stopped = guest_counter(&self->vm);
		for (int look = 0; look < 100; look++) {
			sched_yield();
			ASSERT_EQ(stopped, guest_counter(&self->vm));
		}
		ASSERT_EQ(0, kill(child, SIGCONT));
	}
	ASSERT_TRUE(guest_runs(&self->vm));
	ASSERT_EQ(0, kill(child, SIGKILL));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_TRUE(WIFSIGNALED(status));
}

/* A debugger stops the VMM in KVM_RUN, looks, and lets it go on. */
TEST_F(signal, ptrace)
{
	pid_t child = spawn_vmm(&self->vm, &self->vcpu, variant->device);
	siginfo_t info;
	int status;

	ASSERT_EQ(0, ptrace(PTRACE_SEIZE, child, NULL, NULL));
	for (int i = 0; i < 20; i++) {
		ASSERT_TRUE(guest_runs(&self->vm))
			TH_LOG("the guest does not run");
		ASSERT_EQ(0, ptrace(PTRACE_INTERRUPT, child, NULL, NULL));
		ASSERT_EQ(child, waitpid(child, &status, 0));
		ASSERT_TRUE(WIFSTOPPED(status));
		ASSERT_EQ(SIGTRAP, WSTOPSIG(status));
		ASSERT_EQ(0, ptrace(PTRACE_GETSIGINFO, child, NULL, &info));
		ASSERT_EQ(0, ptrace(PTRACE_CONT, child, NULL, NULL));
	}
	ASSERT_TRUE(guest_runs(&self->vm));
	ASSERT_EQ(0, kill(child, SIGKILL));
	ASSERT_EQ(child, waitpid(child, &status, 0));
}

TEST_HARNESS_MAIN
