// SPDX-License-Identifier: GPL-2.0
/* How long idle vCPUs poll, in the host and in the guest: contention, budget, and what pays. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "idle_fixture.h"

#define IDLE_END	0xc04c
_Static_assert(IDLE_END == DESCRIPTORS + offsetof(struct pvirq_descriptor, idle_end), "as COMMAND_PORT");
#define GUEST_POLL_NS	0xc044
_Static_assert(GUEST_POLL_NS == DESCRIPTORS + offsetof(struct pvirq_descriptor, guest_poll_ns), "as COMMAND_PORT");

/* Makes the idle call and halts, as an operating system does that has nothing else to do. */
GUEST(guest_idle_halt,
	"1:	mov	$" STR(COMMAND_PORT) ", %dx\n"
	"	mov	$3, %eax\n"
	"	sti\n"
	"	out	%eax, %dx\n"
	"	cli\n"
	"	cmpl	$1, " STR(IDLE_END) "\n"
	"	je	1b\n"
	"	cmpl	$2, " STR(IDLE_END) "\n"
	"	je	1b\n"
	"	sti\n"
	"	hlt\n"
	"	jmp	1b\n");
/* Makes one idle call, and then polls for as long as it has a window. */
GUEST(guest_poll,
	"	mov	$" STR(COMMAND_PORT) ", %dx\n"
	"	mov	$3, %eax\n"
	"	out	%eax, %dx\n"
	"1:	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	mov	$0x55, %al\n"
	"	out	%al, %dx\n"
	"2:	cmpl	$0, " STR(GUEST_POLL_NS) "\n"
	"	jne	2b\n"
	"	jmp	1b\n");

TEST_F(idle, gives_way)
{
	struct contender contender;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	contender_start(&contender);
	for (int i = 0; i < 10; i++) {
		runner_start(&self->runner, &self->vcpu);
		EXPECT_BYTE(0x55, runner_wait(&self->runner));
		EXPECT_EQ(PVIRQ_IDLE_CONTENDED, idle_end(self->descriptor));
		EXPECT_EQ(0, self->descriptor->host_poll_ns);
		EXPECT_EQ(0, self->descriptor->guest_poll_ns);
	}
	contender_stop(&contender);
	EXPECT_EQ(10, STATISTIC("idle-contended"));
	/* Less than one window. */
	EXPECT_GT(LONG, STATISTIC("polled-ns"));
}

/*
 * A guest whose interrupts all come within its window never leaves it, and never calls. That it is in the way of others
 * shows when it is preempted.
 */
TEST_F(idle, takes_the_window_from_who_is_preempted)
{
	struct pvirq_poll poll = poll_of(LONG, 100, PVIRQ_POLICY_FIXED);
	struct contender contender;
	bool polls = false;
	uint64_t began = now(), start;

	REGISTER();
	poll.guest_poll_ns = LONG;
	ASSERT_EQ(0, ioctl(self->vm.fd, PVIRQ_SET_POLL, &poll));
	LOAD(guest_poll);
	/* Some task of the kernel's may want the CPU at the wrong moment, but not every time. */
	while (now() - began < 10 * GIVE_WAY_NS && !polls) {
		LOAD(guest_poll);
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
		runner_start(&self->runner, &self->vcpu);
		for (start = now(); now() - start < 50 * MS && is_running(&self->runner);)
			;
		polls = is_running(&self->runner);
		if (!polls)
			EXPECT_BYTE(0x55, runner_wait(&self->runner));
	}
	ASSERT_TRUE(polls);
	contender_start(&contender);
	EXPECT_BYTE(0x55, runner_wait(&self->runner));
	EXPECT_EQ(0, self->descriptor->guest_poll_ns);
	EXPECT_EQ(0, self->descriptor->host_poll_ns);
	contender_stop(&contender);
}

/* For how long this thread has waited for a CPU that another task had, in ns. */
static uint64_t waited_ns(void)
{
	FILE *file = fopen("/proc/thread-self/schedstat", "re");
	uint64_t waited;

	if (!file || fscanf(file, "%*u %" SCNu64, &waited) != 1)
		die("/proc/thread-self/schedstat");
	fclose(file);
	return waited;
}

/* More than this part of the time since the last call has to be another task's; STOLEN_SHARE in the module. */
#define STOLEN_SHARE	4

/*
 * Another task has had the CPU for much of the time since the last call, and is gone. How much it was is known; rounds in
 * which the machine had no time for it, or too much for something else, do not count.
 */
TEST_F(idle, gives_way_to_who_comes_and_goes)
{
	struct contender contender;
	int given_way = 0;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	pin(0);
	while (given_way < 10) {
		uint64_t start = now(), before, waited;
		long polled;

		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
		before = waited_ns();
		contender_start(&contender);
		do
			waited = waited_ns() - before;
		while (now() - start < 50 * MS || waited * 3 < now() - start);
		contender_stop(&contender);
		polled = STATISTIC("polled-ns");
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
		if (waited * STOLEN_SHARE <= now() - start)
			continue;
		EXPECT_EQ(PVIRQ_IDLE_CONTENDED, idle_end(self->descriptor));
		EXPECT_EQ(polled, STATISTIC("polled-ns"));
		given_way++;
	}
}

/*
 * Makes idle calls for some time, and returns for how long they may have polled in all: what may be saved up in a second,
 * and what comes in meanwhile. One of them may end late, by as long as the thread had no CPU. Nothing is granted before
 * that has been made up for.
 */
static uint64_t spend_budget(struct __test_metadata *_metadata, struct vcpu *vcpu, unsigned int percent)
{
	uint64_t start = now(), longest = LONG;

	while (now() - start < 1500ULL * MS) {
		uint64_t before = now(), took;

		EXPECT_EQ(0, vcpu_run(vcpu));
		EXPECT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
		took = now() - before;
		longest = took > longest ? took : longest;
	}
	return percent * (1000ULL * MS + now() - start) / 100 + longest;
}

TEST_F(idle, keeps_to_its_budget)
{
	const unsigned int percent = 2;
	uint64_t allowed;

	REGISTER();
	set_poll(&self->vm, LONG, percent, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	allowed = spend_budget(_metadata, &self->vcpu, percent);
	EXPECT_LE(STATISTIC("polled-ns"), allowed);
	EXPECT_LE(percent * 1000ULL * MS / 100 / 2, STATISTIC("polled-ns"));
	EXPECT_LT(0, STATISTIC("idle-contended"));
}

/* A guest that writes to what is the host's, and says that it polls when it does not. */
struct liar {
	pthread_t thread;
	volatile struct pvirq_descriptor *descriptor;
	volatile bool stop;
};

static void *lie(void *data)
{
	struct liar *liar = data;
	uint32_t any = 0;

	pin(0);
	while (!liar->stop) {
		any += 0x9e3779b9;
		liar->descriptor->host_state = any >> 29;
		liar->descriptor->guest_poll_ns = UINT32_MAX;
		liar->descriptor->host_poll_ns = UINT32_MAX;
		liar->descriptor->idle_end = any;
		liar->descriptor->guest_state = PVIRQ_GUEST_POLLING;
	}
	return NULL;
}

/* It calls again at once, too, whatever it is told: it shall sleep now, or it has no window. */
TEST_F(idle, budget_holds_whatever_the_guest_says)
{
	const unsigned int percent = 2;
	struct liar liar = { .descriptor = self->descriptor };
	uint64_t polled, allowed;
	long calls;

	REGISTER();
	set_poll(&self->vm, LONG, percent, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	ASSERT_EQ(0, pthread_create(&liar.thread, NULL, lie, &liar));
	/* As for one that does as it is told. */
	allowed = spend_budget(_metadata, &self->vcpu, percent);
	polled = STATISTIC("polled-ns");
	EXPECT_LE(polled, allowed);
	EXPECT_LE(percent * 1000ULL * MS / 100 / 2, polled);

	/* The host goes by its own window, which is 0, and not by the one in the guest's memory. */
	set_poll(&self->vm, 0, 100, PVIRQ_POLICY_FIXED);
	calls = STATISTIC("idle-calls");
	for (int i = 0; i < ROUNDS; i++)
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
	EXPECT_EQ(calls + ROUNDS, STATISTIC("idle-calls"));
	EXPECT_EQ(polled, STATISTIC("polled-ns"));
	liar.stop = true;
	pthread_join(liar.thread, NULL);
}

/*
 * The vCPU is idle for so long, in us, until an interrupt comes. The time counts from when it is idle: until its thread
 * is that far, a busy machine takes longer than some of these periods.
 */
#define IDLE_FOR(us)								\
	do {									\
		runner_start(&self->runner, &self->vcpu);			\
		ASSERT_TRUE(eventually(host_state(self->descriptor) == PVIRQ_HOST_POLLING ||	\
				       host_state(self->descriptor) == PVIRQ_HOST_BLOCKED));	\
		usleep(us);							\
		signal_msi(&self->vm);						\
		EXPECT_BYTE(0x77, runner_wait(&self->runner));			\
		vcpu_end_interrupts(&self->vcpu);				\
	} while (0)

TEST_F(idle, windows_follow_the_idle_periods)
{
	/* Where KVM's policy begins, doubled twice. */
	const uint32_t grown = 4 * 10000;
	uint32_t window, longest = 0;
	uint64_t start;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_HALT_POLL);
	LOAD(guest_idle_halt);
	/* Interrupts that come soon, so that polling pays, until it does. */
	for (start = now(); now() - start < 60000ULL * MS && (longest < grown || !STATISTIC("idle-events"));) {
		IDLE_FOR(100);
		window = self->descriptor->host_poll_ns;
		longest = window > longest ? window : longest;
	}
	EXPECT_LT(0, STATISTIC("idle-events"));
	EXPECT_LE(grown, longest);
	EXPECT_GE(LONG, longest);
	/* And some that are too long to poll for. */
	for (int i = 0; i < 20 && self->descriptor->host_poll_ns; i++)
		IDLE_FOR(3 * LONG / 1000);
	EXPECT_EQ(0, self->descriptor->host_poll_ns);
	EXPECT_EQ(0, self->descriptor->guest_poll_ns);
}

/* Idle for too long to be polled for, again and again, until the guest's window is as expected. */
#define EXPECT_WINDOW(expected, periods, before)				\
	do {									\
		int _left = periods;						\
										\
		while (self->descriptor->guest_poll_ns != (expected) && _left--) { \
			before;							\
			IDLE_FOR(3 * LONG / 1000);				\
		}								\
		EXPECT_EQ(expected, self->descriptor->guest_poll_ns);		\
	} while (0)

/* Of the periods that the guest polls through, the host knows what the guest says. */
TEST_F(idle, hits_pay_for_the_window)
{
	struct pvirq_poll poll = poll_of(0, 100, PVIRQ_POLICY_ADAPTIVE);

	REGISTER();
	poll.guest_poll_ns = LONG;
	ASSERT_EQ(0, ioctl(self->vm.fd, PVIRQ_SET_POLL, &poll));
	LOAD(guest_idle_halt);
	IDLE_FOR(3 * LONG / 1000);
	EXPECT_WINDOW(0, 20, );
	/* Each hit is worth some periods that are too long. */
	EXPECT_WINDOW(LONG, 20, self->descriptor->idle_hits++);
	EXPECT_WINDOW(0, 20, );
	/* And now and then it is tried all the same, if no other task wants the CPU just then. */
	EXPECT_WINDOW(LONG, 60, );
	EXPECT_WINDOW(0, 20, );
}

TEST_F(idle, limits_are_checked)
{
	const struct pvirq_poll good = {
		.size = sizeof(good),
		.guest_poll_ns = 1,
		.host_poll_ns = 2,
		.budget = 3,
		.policy = PVIRQ_POLICY_GOVERNOR,
	};
	struct pvirq_poll bad[] = { good, good, good, good, good, good, good }, poll = { .size = sizeof(poll) };
	struct vm kvm;

	EXPECT_EQ(PVIRQ_IOCTL_VERSION, ioctl(self->vm.fd, PVIRQ_GET_VERSION));
	ASSERT_EQ(0, ioctl(self->vm.fd, PVIRQ_GET_POLL, &poll));
	EXPECT_EQ(200000, poll.guest_poll_ns);
	EXPECT_EQ(0, poll.host_poll_ns);
	EXPECT_EQ(50, poll.budget);
	EXPECT_EQ(PVIRQ_POLICY_ADAPTIVE, poll.policy);
	ASSERT_EQ(0, ioctl(self->vm.fd, PVIRQ_SET_POLL, &good));

	bad[0].size--;
	bad[1].size++;
	bad[2].flags = 1;
	bad[3].guest_poll_ns = PVIRQ_POLL_MAX_NS + 1;
	bad[4].host_poll_ns = PVIRQ_POLL_MAX_NS + 1;
	bad[5].budget = 101;
	bad[6].policy = PVIRQ_POLICY_ADAPTIVE + 1;
	for (int i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_SET_POLL, &bad[i]));
		EXPECT_EQ(EINVAL, errno)
			TH_LOG("case %d", i);
	}
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_POLL, &bad[0]));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_SET_POLL, NULL));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_POLL, NULL));
	EXPECT_EQ(EFAULT, errno);
	/* None of them has changed anything. */
	ASSERT_EQ(0, ioctl(self->vm.fd, PVIRQ_GET_POLL, &poll));
	EXPECT_EQ(0, memcmp(&good, &poll, sizeof(good)));

	vm_open(&kvm, KVM_DEVICE);
	EXPECT_EQ(-1, ioctl(kvm.fd, PVIRQ_GET_VERSION));
	EXPECT_EQ(ENOTTY, errno);
	vm_close(&kvm);
}

TEST_HARNESS_MAIN
