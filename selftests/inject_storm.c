// SPDX-License-Identifier: GPL-2.0
/* Interrupts from eventfds, many of them, while they are bound and unbound at random. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "harness.h"
#include "injection.h"

/* How many signals at least; PVIRQ_SIGNALS in the environment changes it. */
static uint32_t signals(void)
{
	const char *wanted = getenv("PVIRQ_SIGNALS");

	return wanted ? strtoul(wanted, NULL, 0) : repeats(20000);
}

/* The number of the last signal, and that which the guest's handler has seen. */
#define SENT	(GUEST_DATA + 0x10)
#define SEEN	(GUEST_DATA + 0x14)
#define LAPIC_EOI	0xfee000b0
#define HANDLER	0x3000

GUEST(handler_sees,
	"	push	%eax\n"
	"	push	%ebx\n"
	"	mov	" STR(GUEST_DATA) " + 0x10, %eax\n"
	"	mov	%eax, " STR(GUEST_DATA) " + 0x14\n"
	"	mov	$" STR(LAPIC_EOI) ", %ebx\n"
	"	movl	$0, (%ebx)\n"
	"	pop	%ebx\n"
	"	pop	%eax\n"
	"	iret\n");

FIXTURE(storm)
{
	struct vm vm;
	struct vcpu vcpu;
	struct runner runner;
	pthread_t sender;
	volatile bool stop;
	volatile uint32_t *sent;
	volatile uint32_t *seen;
	uint32_t goal;
	int source;
	int sink;
};

FIXTURE_VARIANT(storm)
{
	uint32_t bottom_half;
};

FIXTURE_VARIANT_ADD(storm, tasklet)
{
	.bottom_half = PVIRQ_BOTTOM_HALF_TASKLET,
};

FIXTURE_VARIANT_ADD(storm, workqueue)
{
	.bottom_half = PVIRQ_BOTTOM_HALF_WORKQUEUE,
};

FIXTURE_SETUP(storm)
{
	uint16_t entry[2] = { HANDLER, 0 };
	struct kvm_sregs sregs;

	posting_open(&self->vm, &self->vcpu);
	vm_write(&self->vm, HANDLER, handler_sees, handler_sees_end - handler_sees);
	vm_write(&self->vm, VECTOR * sizeof(entry), entry, sizeof(entry));
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, DESCRIPTORS, 1));
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_SREGS, &sregs));
	/* The guest writes to its local APIC, in real mode. Not a reset: that would be the end of the registration. */
	sregs.ds.limit = ~0U;
	sregs.ds.g = 1;
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_SREGS, &sregs));
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, DESCRIPTORS, 1));
	self->sent = (void *)(self->vm.memory + SENT);
	self->seen = (void *)(self->vm.memory + SEEN);
	/* Where the registration was. */
	*self->sent = 0;
	*self->seen = 0;
	self->goal = signals();
	self->source = eventfd_open();
	self->sink = eventfd_open();
}

FIXTURE_TEARDOWN(storm)
{
	close(self->source);
	close(self->sink);
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

static void *send_all(void *data)
{
	FIXTURE_DATA(storm) *self = data;

	pin(1);
	while (!self->stop) {
		__atomic_store_n(self->sent, *self->sent + 1, __ATOMIC_SEQ_CST);
		eventfd_signal(self->source);
	}
	return NULL;
}

#define BIND(_bind)								\
	({									\
		struct pvirq_bind _b = (_bind);					\
		_b.bottom_half = variant->bottom_half;				\
		try_bind(&self->vm, _b);					\
	})

/* How often a source is bound at least, however fast the signals are sent. */
#define ROUNDS	20

/* The time that binding goes on for, and that it does not: random, and short against what a round takes. */
static void wait_a_little(unsigned int *seed)
{
	uint64_t end = now() + rand_r(seed) % 200000;

	while (now() < end)
		sched_yield();
}

/* However often the vCPU's source is unbound and bound meanwhile: the vCPU sees the last signal. */
TEST_F(storm, rebound_to_a_vcpu)
{
	unsigned int seed = 1, rebinds = 0;

	LOAD(guest_wait);
	ASSERT_EQ(0, BIND(TO_VCPU(self->source, 0, VECTOR)));
	runner_start(&self->runner, &self->vcpu);
	ASSERT_EQ(0, pthread_create(&self->sender, NULL, send_all, self));
	while (*self->sent < self->goal || rebinds < ROUNDS) {
		wait_a_little(&seed);
		ASSERT_EQ(0, try_unbind(&self->vm, self->source));
		wait_a_little(&seed);
		ASSERT_EQ(0, BIND(TO_VCPU(self->source, 0, VECTOR)));
		rebinds++;
	}
	self->stop = true;
	pthread_join(self->sender, NULL);
	EXPECT_TRUE(eventually(*self->seen == *self->sent))
		TH_LOG("of %u signals the guest has seen the first %u", *self->sent, *self->seen);
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
	TH_LOG("%u signals, bound %u times, %ld interrupts", *self->sent, rebinds + 1, STATISTIC("injected"));
}

/* The same, and each time the vCPU sees what was sent before its source was unbound. */
TEST_F(storm, every_signal_before_the_end_is_delivered)
{
	unsigned int seed = 2;
	int round;

	LOAD(guest_wait);
	pin(1);
	runner_start(&self->runner, &self->vcpu);
	repeat(round, repeats(1000)) {
		ASSERT_EQ(0, BIND(TO_VCPU(self->source, 0, VECTOR)));
		for (int i = rand_r(&seed) % 4; i >= 0; i--) {
			__atomic_store_n(self->sent, *self->sent + 1, __ATOMIC_SEQ_CST);
			eventfd_signal(self->source);
		}
		ASSERT_EQ(0, try_unbind(&self->vm, self->source));
		ASSERT_EQ(0, eventfd_take(self->source));
		ASSERT_TRUE(eventually(*self->seen == *self->sent)) TH_LOG("round %d", round);
	}
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
}

/* Once UNBIND has returned, nothing is delivered, whatever is signalled. */
TEST_F(storm, never_late)
{
	unsigned int seed = 3, rounds = 0, deliveries = 0;

	ASSERT_EQ(0, pthread_create(&self->sender, NULL, send_all, self));
	while (*self->sent < self->goal || deliveries < ROUNDS) {
		ASSERT_EQ(0, BIND(TO_SINK(self->source, self->sink)));
		wait_a_little(&seed);
		ASSERT_EQ(0, try_unbind(&self->vm, self->source));
		deliveries += eventfd_take(self->sink);
		wait_a_little(&seed);
		ASSERT_EQ(0, eventfd_take(self->sink)) TH_LOG("round %u", rounds);
		rounds++;
	}
	self->stop = true;
	pthread_join(self->sender, NULL);
	TH_LOG("%u signals, bound %u times, %u deliveries", *self->sent, rounds, deliveries);
}

/* Signals in the time of a kick that make a burst: DENSE of rust/policy/moderation.rs. */
#define DENSE	4
#define BURST	64

/* Returns how long a lone signal takes to be seen, in ns: a kick, and what follows it. The shortest of some. */
static uint64_t lone_signal(FIXTURE_DATA(storm) *self, int source)
{
	uint64_t shortest = UINT64_MAX;

	for (int i = 0; i < 10; i++) {
		uint64_t start = now();

		__atomic_store_n(self->sent, *self->sent + 1, __ATOMIC_SEQ_CST);
		eventfd_signal(source);
		if (!eventually(*self->seen == *self->sent))
			return 0;
		if (now() - start < shortest)
			shortest = now() - start;
	}
	return shortest;
}

/*
 * A vCPU that is busy is not kicked for each signal of a burst, nor for each few of them. Where a kick is so quick that few
 * signals come meanwhile, as with APICv, they are no burst: then there is one for every few of them at the most.
 */
TEST_F(storm, bursts_are_delivered_together)
{
	int sources[BURST], bursts;
	uint64_t start, sending = 0, lone;
	long drains, limit;

	for (int i = 0; i < BURST; i++) {
		sources[i] = eventfd_open();
		ASSERT_EQ(0, BIND(TO_VCPU(sources[i], 0, VECTOR)));
	}
	LOAD(guest_wait);
	pin(1);
	runner_start(&self->runner, &self->vcpu);
	lone = lone_signal(self, sources[0]);
	ASSERT_NE(0, lone);
	drains = STATISTIC("drains");
	repeat(bursts, repeats(200)) {
		start = now();
		for (int i = 0; i < BURST; i++) {
			__atomic_store_n(self->sent, *self->sent + 1, __ATOMIC_SEQ_CST);
			eventfd_signal(sources[i]);
		}
		sending += now() - start;
		ASSERT_TRUE(eventually(*self->seen == *self->sent)) TH_LOG("burst %d", bursts);
	}
	drains = STATISTIC("drains") - drains;
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
	EXPECT_LE(bursts, drains);
	/* A burst that takes longer than a pause is taken in more parts: one for each. They end at 1 ms. */
	limit = 3 * bursts + sending / 250000;
	/* What follows the kick takes about as long as the kick. */
	if (lone < 2 * DENSE * sending / bursts / BURST)
		limit += bursts * BURST / DENSE;
	EXPECT_GT(limit, drains);
	TH_LOG("%d bursts in %lu us, taken in %ld parts; a lone signal takes %lu ns", bursts, sending / 1000, drains, lone);
	for (int i = 0; i < BURST; i++)
		close(sources[i]);
}

/*
 * A vCPU that sleeps is kicked, and while it wakes up it is kicked and posted to, again and again: it looks once more for
 * each. Each signal is for a vector of its own.
 */
#define FIRST	0x90

TEST_F(storm, who_sleeps_misses_nothing)
{
	const uint16_t entry[2] = { HANDLER, 0 };
	int sources[BURST], burst;

	for (int i = 0; i < BURST; i++) {
		vm_write(&self->vm, (FIRST + i) * sizeof(entry), entry, sizeof(entry));
		sources[i] = eventfd_open();
		ASSERT_EQ(0, BIND(TO_VCPU(sources[i], 0, FIRST + i)));
	}
	LOAD(guest_sleep);
	pin(1);
	runner_start(&self->runner, &self->vcpu);
	repeat(burst, repeats(1000)) {
		ASSERT_TRUE(eventually(host_state(descriptor(&self->vm, 0)) == PVIRQ_HOST_BLOCKED));
		for (int i = 0; i < BURST; i++) {
			__atomic_store_n(self->sent, *self->sent + 1, __ATOMIC_SEQ_CST);
			eventfd_signal(sources[i]);
		}
		ASSERT_TRUE(eventually(*self->seen == *self->sent)) TH_LOG("burst %d", burst);
	}
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
	for (int i = 0; i < BURST; i++)
		close(sources[i]);
}

/* The VM ends in the middle of it. */
TEST_F(storm, the_vm_ends)
{
	int references = file_references(), i;

	repeat(i, repeats(50)) {
		struct vm vm;

		vm_open(&vm, PVIRQ_DEVICE);
		*self->sent = 0;
		self->stop = false;
		ASSERT_EQ(0, pthread_create(&self->sender, NULL, send_all, self));
		ASSERT_EQ(0, try_bind(&vm, TO_SINK(self->source, self->sink)));
		ASSERT_TRUE(eventually(eventfd_take(self->sink)));
		vm_close(&vm);
		eventfd_take(self->sink);
		sched_yield();
		ASSERT_EQ(0, eventfd_take(self->sink));
		self->stop = true;
		pthread_join(self->sender, NULL);
	}
	EXPECT_FILES(references);
}

/* More sources than a batch has room for, signalled on two CPUs as fast as that goes: each is delivered for. */
#define SOURCES	200

struct burst {
	int cpu;
	int *sources;
	volatile bool *stop;
};

static void *send_bursts(void *data)
{
	struct burst *burst = data;

	pin(burst->cpu);
	while (!*burst->stop)
		for (int i = 0; i < SOURCES; i++)
			eventfd_signal(burst->sources[i]);
	return NULL;
}

TEST_F(storm, nobody_starves)
{
	struct pvirq_bottom_half before = bottom_half_counters(&self->vm, variant->bottom_half), after;
	int sources[SOURCES], sinks[SOURCES];
	struct burst bursts[2];
	pthread_t senders[2];
	uint64_t queued = 0;

	for (int i = 0; i < SOURCES; i++) {
		sources[i] = eventfd_open();
		sinks[i] = eventfd_open();
		ASSERT_EQ(0, BIND(TO_SINK(sources[i], sinks[i])));
	}
	for (int cpu = 0; cpu < 2; cpu++) {
		bursts[cpu] = (struct burst){ cpu, sources, &self->stop };
		ASSERT_EQ(0, pthread_create(&senders[cpu], NULL, send_bursts, &bursts[cpu]));
	}
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < SOURCES; i++) {
			struct pollfd sink = { .fd = sinks[i], .events = POLLIN };

			ASSERT_EQ(1, poll(&sink, 1, PATIENCE * 1000)) TH_LOG("source %d", i);
			EXPECT_LT(0, eventfd_take(sinks[i]));
		}
	}
	self->stop = true;
	for (int cpu = 0; cpu < 2; cpu++)
		pthread_join(senders[cpu], NULL);
	/* ksoftirqd may have something left to do. */
	for (int i = 0; i < SOURCES; i++) {
		struct pvirq_source counters;

		EXPECT_TRUE(eventually((counters = source_counters(&self->vm, sources[i]), counters.queued == counters.delivered)))
			TH_LOG("source %d", i);
		queued += counters.queued;
	}
	ASSERT_TRUE(eventually((after = bottom_half_counters(&self->vm, variant->bottom_half),
				after.delivered - before.delivered == queued)));
	EXPECT_EQ(queued, after.queued - before.queued);
	EXPECT_GE(64, after.largest_batch);
	TH_LOG("%llu deliveries in %llu batches of %llu at most, %llu in ksoftirqd", after.delivered - before.delivered,
	       after.batches - before.batches, after.largest_batch, after.ksoftirqd - before.ksoftirqd);
	for (int i = 0; i < SOURCES; i++) {
		close(sources[i]);
		close(sinks[i]);
	}
}

TEST_HARNESS_MAIN
