/* SPDX-License-Identifier: GPL-2.0 */
/* A test for each probe, named after its ioctl. */
#ifndef _PVIRQ_SELFTESTS_PARITY_HARNESS_H
#define _PVIRQ_SELFTESTS_PARITY_HARNESS_H

#include "harness.h"
#include "parity.h"

FIXTURE(ioctl)
{
	struct record *kvm;
	struct record *pvirq;
};

FIXTURE_VARIANT(ioctl)
{
	struct probe probe;
	/* No call of the list succeeds on this kernel, or on any. */
	bool unsupported;
};

FIXTURE_SETUP(ioctl)
{
	self->kvm = calloc(1, sizeof(*self->kvm));
	self->pvirq = calloc(1, sizeof(*self->pvirq));
	ASSERT_TRUE(self->kvm && self->pvirq);
}

FIXTURE_TEARDOWN(ioctl)
{
	free(self->kvm);
	free(self->pvirq);
}

TEST_F(ioctl, parity)
{
	probe_record(&variant->probe, KVM_DEVICE, self->kvm);
	probe_record(&variant->probe, PVIRQ_DEVICE, self->pvirq);
	EXPECT_EQ(0, record_compare(self->kvm, self->pvirq));
	/* A probe that never gets through to KVM's own code shows little. */
	EXPECT_EQ(!variant->unsupported, !!record_successes(self->kvm));
}

/* Adds the probe of KVM_name: PROBE(name, target, .field = value, …). */
#define PROBE(name, target, ...)					\
	FIXTURE_VARIANT_ADD(ioctl, name)				\
	{								\
		.probe = {						\
			.on = target,					\
			.request = KVM_##name,				\
			__VA_ARGS__					\
		},							\
	}

/* The same for an ioctl that KVM knows and refuses here, or that is another architecture's. */
#define PROBE_UNSUPPORTED(name, target, ...)				\
	FIXTURE_VARIANT_ADD(ioctl, name)				\
	{								\
		.probe = {						\
			.on = target,					\
			.request = KVM_##name,				\
			__VA_ARGS__					\
		},							\
		.unsupported = true,					\
	}

#endif
