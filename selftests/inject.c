// SPDX-License-Identifier: GPL-2.0
/* Interrupts from eventfds: that they arrive, wherever the vCPU is, and when nothing is bound, do not. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>

#include "harness.h"
#include "injection.h"

#define ROUNDS	repeats(300)

FIXTURE(inject)
{
	struct vm vm;
	struct vcpu vcpu;
	volatile struct pvirq_descriptor *descriptor;
	struct runner runner;
	int source;
};

FIXTURE_VARIANT(inject)
{
	uint32_t bottom_half;
};

FIXTURE_VARIANT_ADD(inject, tasklet)
{
	.bottom_half = PVIRQ_BOTTOM_HALF_TASKLET,
};

FIXTURE_VARIANT_ADD(inject, workqueue)
{
	.bottom_half = PVIRQ_BOTTOM_HALF_WORKQUEUE,
};

FIXTURE_SETUP(inject)
{
	posting_open(&self->vm, &self->vcpu);
	vm_set_handler(&self->vm, HIGHER, guest_handler_higher);
	self->descriptor = descriptor(&self->vm, 0);
	self->source = eventfd_open();
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, DESCRIPTORS, 1));
}

FIXTURE_TEARDOWN(inject)
{
	close(self->source);
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

/* Binds to the vCPU, with the variant's bottom half. */
#define BIND(fd, _vector)							\
	({									\
		struct pvirq_bind _bind = TO_VCPU(fd, 0, _vector);		\
		_bind.bottom_half = variant->bottom_half;			\
		try_bind(&self->vm, _bind);					\
	})

#define COUNTER(field)	(source_counters(&self->vm, self->source).field)

TEST_F(inject, elided_while_the_vmm_has_the_vcpu)
{
	GO_OUTSIDE();
	ASSERT_EQ(0, BIND(self->source, VECTOR));
	eventfd_signal(self->source);
	EXPECT_TRUE(is_pending(self->descriptor, VECTOR));
	EXPECT_EQ(0, eventfd_take(self->source));
	eventfd_signal(self->source);
	EXPECT_HANDLED(0x77);
	EXPECT_EQ(2, COUNTER(top_halves));
	EXPECT_EQ(1, COUNTER(elided));
	EXPECT_EQ(1, COUNTER(coalesced));
	EXPECT_EQ(0, COUNTER(queued));
	EXPECT_EQ(1, STATISTIC("injected"));
}

TEST_F(inject, signalled_before_it_is_bound)
{
	LOAD(guest_sleep);
	eventfd_signal(self->source);
	ASSERT_EQ(0, BIND(self->source, VECTOR));
	EXPECT_HANDLED(0x77);
	EXPECT_EQ(1, COUNTER(top_halves));
	/* Its counter goes with the binding. */
	EXPECT_EQ(0, try_unbind(&self->vm, self->source));
	EXPECT_EQ(0, eventfd_take(self->source));
}

#define SIGNAL_WHILE(_state)							\
	do {									\
		int i;								\
										\
		ASSERT_EQ(0, BIND(self->source, VECTOR));			\
		pin(1);								\
		repeat(i, ROUNDS) {						\
			runner_start(&self->runner, &self->vcpu);		\
			ASSERT_TRUE(eventually(host_state(self->descriptor) == (_state)));	\
			eventfd_signal(self->source);				\
			ASSERT_EQ(0, runner_wait(&self->runner));		\
			ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);	\
			ASSERT_EQ(0x77, *(uint8_t *)vcpu_io_data(&self->vcpu));	\
			vcpu_end_interrupts(&self->vcpu);			\
		}								\
		EXPECT_EQ(i, COUNTER(top_halves));				\
		EXPECT_EQ(0, COUNTER(queued));					\
		EXPECT_EQ(i, COUNTER(elided) + COUNTER(delivered));		\
		EXPECT_EQ(i, STATISTIC("injected"));				\
	} while (0)

TEST_F(inject, delivered_while_the_vcpu_runs)
{
	LOAD(guest_wait);
	SIGNAL_WHILE(PVIRQ_HOST_RUNNING);
	EXPECT_LT(0, COUNTER(delivered));
}

TEST_F(inject, delivered_while_the_vcpu_sleeps)
{
	LOAD(guest_sleep);
	SIGNAL_WHILE(PVIRQ_HOST_BLOCKED);
	EXPECT_LT(0, COUNTER(delivered));
}

/* The guest's descriptors are gone, its interrupts are not. */
TEST_F(inject, delivered_without_descriptors)
{
	int i;

	ASSERT_EQ(0, BIND(self->source, VECTOR));
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_UNREGISTER));
	LOAD(guest_wait);
	pin(1);
	repeat(i, ROUNDS) {
		runner_start(&self->runner, &self->vcpu);
		eventfd_signal(self->source);
		ASSERT_EQ(0, runner_wait(&self->runner));
		ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);
		ASSERT_EQ(0x77, *(uint8_t *)vcpu_io_data(&self->vcpu));
		vcpu_end_interrupts(&self->vcpu);
	}
	EXPECT_EQ(i, COUNTER(delivered));
	EXPECT_EQ(0, COUNTER(elided));
}

/* The vCPU's thread is in KVM_RUN since before anything was bound to it, and the guest has not used its interface there. */
TEST_F(inject, delivered_to_a_vcpu_that_was_not_told)
{
	struct vcpu other;
	struct kvm_regs regs = { .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2 };
	unsigned long counter;

	vcpu_open(&self->vm, &other, 1);
	vcpu_reset(&other);
	vcpu_enable_lapic(&other);
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, DESCRIPTORS, 2));
	vm_write(&self->vm, GUEST_CODE, guest_wait, guest_wait_end - guest_wait);
	ASSERT_EQ(0, ioctl(other.fd, KVM_SET_REGS, &regs));
	ASSERT_EQ(0, ioctl(other.fd, KVM_SET_MP_STATE, &(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE }));
	pin(1);
	counter = guest_counter(&self->vm);
	runner_start(&self->runner, &other);
	ASSERT_TRUE(eventually(guest_counter(&self->vm) != counter));
	ASSERT_EQ(0, try_bind(&self->vm, TO_VCPU(self->source, 1, VECTOR)));
	eventfd_signal(self->source);
	ASSERT_EQ(0, runner_wait(&self->runner));
	ASSERT_EQ(KVM_EXIT_IO, other.run->exit_reason);
	EXPECT_EQ(0x77, *(uint8_t *)vcpu_io_data(&other));
	vcpu_close(&other);
}

TEST_F(inject, higher_vectors_first)
{
	int higher = eventfd_open();

	LOAD(guest_sleep);
	ASSERT_EQ(0, BIND(self->source, VECTOR));
	ASSERT_EQ(0, BIND(higher, HIGHER));
	eventfd_signal(self->source);
	eventfd_signal(higher);
	EXPECT_HANDLED(0x88);
	vcpu_end_interrupts(&self->vcpu);
	EXPECT_HANDLED(0x77);
	close(higher);
}

/* A signal by which a bottom half has work to do: no thread runs the vCPU, and no irqfd has the sink. */
TEST_F(inject, sinks)
{
	struct pvirq_bind bind;
	int sink = eventfd_open();
	struct pollfd poll_sink = { .fd = sink, .events = POLLIN };

	bind = TO_SINK(self->source, sink);
	bind.bottom_half = variant->bottom_half;
	ASSERT_EQ(0, try_bind(&self->vm, bind));
	for (int i = 0; i < ROUNDS; i++) {
		eventfd_signal(self->source);
		ASSERT_EQ(1, poll(&poll_sink, 1, PATIENCE * 1000));
		ASSERT_EQ(1, eventfd_take(sink));
		ASSERT_EQ(0, eventfd_take(self->source));
	}
	EXPECT_EQ(ROUNDS, COUNTER(queued));
	EXPECT_EQ(0, try_unbind(&self->vm, self->source));
	eventfd_signal(self->source);
	EXPECT_EQ(0, eventfd_take(sink));
	EXPECT_EQ(1, eventfd_take(self->source));
	close(sink);
}

/* The bottom half runs at the end of an interrupt, and not when ksoftirqd has a turn. */
TEST_F(inject, nobody_waits_for_ksoftirqd)
{
	struct pvirq_bottom_half before = bottom_half_counters(&self->vm, variant->bottom_half), after;
	struct pvirq_bind bind;
	int sink = eventfd_open(), late = 0;

	bind = TO_SINK(self->source, sink);
	bind.bottom_half = variant->bottom_half;
	ASSERT_EQ(0, try_bind(&self->vm, bind));
	for (int i = 0; i < ROUNDS; i++) {
		eventfd_signal(self->source);
		/* Not poll: it is there when the write has returned. */
		if (!eventfd_take(sink)) {
			late++;
			ASSERT_TRUE(eventually(eventfd_take(sink) == 1)) TH_LOG("round %d", i);
		}
	}
	ASSERT_TRUE(eventually((after = bottom_half_counters(&self->vm, variant->bottom_half),
				after.batches - before.batches == ROUNDS)));
	EXPECT_EQ(ROUNDS, after.top_halves - before.top_halves);
	EXPECT_EQ(ROUNDS, after.queued - before.queued);
	EXPECT_EQ(ROUNDS, after.delivered - before.delivered);
	/* A timer's softirq that is just being run, and takes for ever, leaves ours to ksoftirqd. But not often. */
	EXPECT_LE(late, after.ksoftirqd - before.ksoftirqd);
	EXPECT_GE(ROUNDS / 10, after.ksoftirqd - before.ksoftirqd);
	close(sink);
}

TEST_F(inject, closed_sources_are_unbound)
{
	int references = file_references(), again;

	ASSERT_EQ(0, BIND(self->source, VECTOR));
	again = dup(self->source);
	close(self->source);
	/* Not yet: there is another descriptor. */
	LOAD(guest_sleep);
	eventfd_signal(again);
	EXPECT_HANDLED(0x77);
	close(again);
	self->source = eventfd_open();
	EXPECT_EQ(0, BIND(self->source, VECTOR));
	EXPECT_FILES(references);
}

TEST_F(inject, vms_end_with_sources_bound)
{
	ASSERT_EQ(0, BIND(self->source, VECTOR));
	close(self->vm.fd);
	eventfd_signal(self->source);
	/* The signal is the reader's again. */
	EXPECT_EQ(1, eventfd_take(self->source));
	EXPECT_FALSE(is_pending(self->descriptor, VECTOR));
	self->vm.fd = -1;
}

TEST_HARNESS_MAIN
