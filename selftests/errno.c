// SPDX-License-Identifier: GPL-2.0
/* Errors that no single ioctl is to blame for: unknown numbers, and descriptors that run out. */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "harness.h"
#include "parity.h"

FIXTURE(sweep)
{
	struct record *kvm;
	struct record *pvirq;
};

FIXTURE_VARIANT(sweep)
{
	enum target on;
};

FIXTURE_VARIANT_ADD(sweep, system)
{
	.on = SYSTEM,
};

FIXTURE_VARIANT_ADD(sweep, vm)
{
	.on = VM,
};

FIXTURE_VARIANT_ADD(sweep, vcpu)
{
	.on = VCPU,
};

FIXTURE_SETUP(sweep)
{
	self->kvm = calloc(1, sizeof(*self->kvm));
	self->pvirq = calloc(1, sizeof(*self->pvirq));
	ASSERT_TRUE(self->kvm && self->pvirq);
}

FIXTURE_TEARDOWN(sweep)
{
	free(self->kvm);
	free(self->pvirq);
}

/* All numbers, KVM's and those that KVM does not have. */
TEST_F(sweep, every_number)
{
	sweep_record(variant->on, KVM_DEVICE, self->kvm);
	sweep_record(variant->on, PVIRQ_DEVICE, self->pvirq);
	EXPECT_EQ(MAX_OUTCOMES, self->kvm->count);
	EXPECT_EQ(0, record_compare(self->kvm, self->pvirq));
}

/* Something that has a descriptor is created with as many descriptors left as it takes, and with one less. */
FIXTURE(limit)
{
	struct vm vm;
	struct vcpu vcpu;
};

ON_BOTH_DEVICES(limit);

FIXTURE_SETUP(limit)
{
	vm_open(&self->vm, variant->device);
	vcpu_open(&self->vm, &self->vcpu, 0);
}

FIXTURE_TEARDOWN(limit)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

/* Expects EMFILE from a call without a descriptor left, and the lowest free one with one left. */
#define EXPECT_LIMITED(call)						\
	do {								\
		int _lowest = fd_lowest_free(), _before = fd_count();	\
		descriptors_limit(0);					\
		errno = 0;						\
		EXPECT_EQ(-1, (call));					\
		EXPECT_EQ(EMFILE, errno);				\
		descriptors_unlimit();					\
		EXPECT_EQ(_before, fd_count());				\
		EXPECT_EQ(_lowest, fd_lowest_free());			\
		descriptors_limit(1);					\
		errno = 0;						\
		EXPECT_EQ(_lowest, (call))				\
			TH_LOG("errno %d", errno);			\
		descriptors_unlimit();					\
		EXPECT_EQ(_before + 1, fd_count());			\
	} while (0)

TEST_F(limit, open)
{
	EXPECT_LIMITED(device_try_open(variant->device, O_RDWR));
}

TEST_F(limit, create_vm)
{
	EXPECT_LIMITED(ioctl(self->vm.device, KVM_CREATE_VM, 0));
}

/* The id of the vCPU that could not be created is free still. */
TEST_F(limit, create_vcpu)
{
	EXPECT_LIMITED(ioctl(self->vm.fd, KVM_CREATE_VCPU, 1));
}

TEST_F(limit, create_device)
{
	struct kvm_create_device device = { .type = KVM_DEV_TYPE_VFIO };

	EXPECT_LIMITED(ioctl(self->vm.fd, KVM_CREATE_DEVICE, &device) ? -1 : (int)device.fd);
}

TEST_F(limit, vm_stats)
{
	EXPECT_LIMITED(ioctl(self->vm.fd, KVM_GET_STATS_FD, 0));
}

TEST_F(limit, vcpu_stats)
{
	EXPECT_LIMITED(ioctl(self->vcpu.fd, KVM_GET_STATS_FD, 0));
}

TEST_F(limit, guest_memfd)
{
	struct kvm_create_guest_memfd memfd = { .size = PAGE_SIZE };

	EXPECT_LIMITED(ioctl(self->vm.fd, KVM_CREATE_GUEST_MEMFD, &memfd));
}

TEST_HARNESS_MAIN
