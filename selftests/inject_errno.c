// SPDX-License-Identifier: GPL-2.0
/* Interrupts from eventfds: what cannot be bound, and that nothing is half bound. */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "harness.h"
#include "injection.h"

FIXTURE(inject)
{
	struct vm vm;
	struct vcpu vcpu;
	int source;
	int sink;
};

FIXTURE_SETUP(inject)
{
	posting_open(&self->vm, &self->vcpu);
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, DESCRIPTORS, 1));
	self->source = eventfd_open();
	self->sink = eventfd_open();
}

FIXTURE_TEARDOWN(inject)
{
	close(self->source);
	close(self->sink);
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

#define GOOD	TO_VCPU(self->source, 0, VECTOR)

/* Expects that no callback is left on the source: KVM's irqfd can have it to itself. */
#define EXPECT_FREE(fd)								\
	do {									\
		EXPECT_EQ(0, try_irqfd(&self->vm, fd, 5, 0));			\
		EXPECT_EQ(0, try_irqfd(&self->vm, fd, 5, KVM_IRQFD_FLAG_DEASSIGN));	\
	} while (0)

/* Expects that BIND fails, and that the source can be bound to what it should be after that. */
#define EXPECT_REFUSED(error, ...)						\
	do {									\
		EXPECT_EQ(error, try_bind(&self->vm, __VA_ARGS__));		\
		EXPECT_EQ(ENOENT, try_unbind(&self->vm, self->source));		\
		EXPECT_FREE(self->source);					\
		EXPECT_EQ(0, try_bind(&self->vm, GOOD));			\
		EXPECT_EQ(0, try_unbind(&self->vm, self->source));		\
	} while (0)

TEST_F(inject, unknown_members)
{
	struct pvirq_bind bad[12];

	for (int i = 0; i < 12; i++)
		bad[i] = GOOD;
	bad[0].size--;
	bad[1].size++;
	bad[2].size = 0;
	bad[3].flags = 0;
	bad[4].flags |= 1 << 2;
	bad[5].flags |= 1U << 31;
	bad[6].sink = self->sink;
	bad[7].bottom_half = PVIRQ_BOTTOM_HALF_WORKQUEUE + 1;
	bad[8].reserved = 1;
	bad[9] = TO_SINK(self->source, self->sink);
	bad[9].vcpu = 1;
	bad[10] = TO_SINK(self->source, self->sink);
	bad[10].vector = VECTOR;
	bad[11].sink = -1;
	for (int i = 0; i < 12; i++) {
		EXPECT_EQ(EINVAL, try_bind(&self->vm, bad[i]))
			TH_LOG("argument %d", i);
	}
	EXPECT_REFUSED(EINVAL, bad[0]);
}

TEST_F(inject, unreadable_arguments)
{
	unsigned char *pages = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct pvirq_bind *bind = (void *)(pages + PAGE_SIZE - sizeof(*bind) + 4);

	ASSERT_NE(MAP_FAILED, pages);
	bind->size = sizeof(*bind);
	ASSERT_EQ(0, mprotect(pages + PAGE_SIZE, PAGE_SIZE, PROT_NONE));
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_BIND, bind));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_BIND, NULL));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_UNBIND, NULL));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_SOURCE, NULL));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_BOTTOM_HALF, NULL));
	EXPECT_EQ(EFAULT, errno);
	munmap(pages, 2 * PAGE_SIZE);
}

TEST_F(inject, descriptors_of_nothing)
{
	int closed = eventfd_open();

	close(closed);
	EXPECT_REFUSED(EBADF, TO_VCPU(closed, 0, VECTOR));
	EXPECT_REFUSED(EBADF, TO_VCPU(-1, 0, VECTOR));
	EXPECT_REFUSED(EBADF, TO_SINK(self->source, closed));
	EXPECT_REFUSED(EBADF, TO_SINK(self->source, -1));
	EXPECT_EQ(EBADF, try_unbind(&self->vm, closed));
}

TEST_F(inject, descriptors_of_something_else)
{
	int null = open("/dev/null", O_RDWR);
	int path = open("/dev/null", O_PATH);

	ASSERT_LE(0, null);
	ASSERT_LE(0, path);
	EXPECT_REFUSED(EBADFD, TO_VCPU(null, 0, VECTOR));
	EXPECT_REFUSED(EBADFD, TO_VCPU(self->vm.fd, 0, VECTOR));
	EXPECT_REFUSED(EBADFD, TO_VCPU(self->vcpu.fd, 0, VECTOR));
	EXPECT_REFUSED(EBADFD, TO_SINK(self->source, null));
	EXPECT_REFUSED(EBADF, TO_VCPU(path, 0, VECTOR));
	EXPECT_EQ(EBADFD, try_unbind(&self->vm, null));
	close(null);
	close(path);
}

TEST_F(inject, reserved_vectors)
{
	EXPECT_REFUSED(ERANGE, TO_VCPU(self->source, 0, 0));
	EXPECT_REFUSED(ERANGE, TO_VCPU(self->source, 0, PVIRQ_FIRST_VECTOR - 1));
	EXPECT_REFUSED(ERANGE, TO_VCPU(self->source, 0, 256));
	EXPECT_REFUSED(ERANGE, TO_VCPU(self->source, 0, 256 + VECTOR));
	EXPECT_REFUSED(ERANGE, TO_VCPU(self->source, 0, ~0U));
	EXPECT_EQ(0, try_bind(&self->vm, TO_VCPU(self->source, 0, PVIRQ_FIRST_VECTOR)));
	EXPECT_EQ(0, try_bind(&self->vm, TO_VCPU(self->sink, 0, 255)));
}

TEST_F(inject, vcpus_that_are_not_there)
{
	EXPECT_REFUSED(ENOENT, TO_VCPU(self->source, 1, VECTOR));
	EXPECT_REFUSED(ENOENT, TO_VCPU(self->source, 256, VECTOR));
	EXPECT_REFUSED(ENOENT, TO_VCPU(self->source, ~0U, VECTOR));
}

TEST_F(inject, vcpus_without_a_descriptor)
{
	struct vcpu other;

	vcpu_open(&self->vm, &other, 1);
	EXPECT_REFUSED(ENXIO, TO_VCPU(self->source, 1, VECTOR));
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_UNREGISTER));
	EXPECT_EQ(ENXIO, try_bind(&self->vm, GOOD));
	EXPECT_FREE(self->source);
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, DESCRIPTORS, 2));
	EXPECT_EQ(0, try_bind(&self->vm, TO_VCPU(self->source, 1, VECTOR)));
	vcpu_close(&other);
}

TEST_F(inject, eventfds_of_irqfd)
{
	ASSERT_EQ(0, try_irqfd(&self->vm, self->source, 5, 0));
	EXPECT_EQ(EBUSY, try_bind(&self->vm, GOOD));
	EXPECT_EQ(ENOENT, try_unbind(&self->vm, self->source));
	ASSERT_EQ(0, try_irqfd(&self->vm, self->source, 5, KVM_IRQFD_FLAG_DEASSIGN));
	EXPECT_EQ(0, try_bind(&self->vm, GOOD));
	EXPECT_EQ(EBUSY, try_irqfd(&self->vm, self->source, 5, 0));
	EXPECT_EQ(0, try_unbind(&self->vm, self->source));
	EXPECT_FREE(self->source);
}

TEST_F(inject, bound_twice)
{
	int again = dup(self->source);

	ASSERT_EQ(0, try_bind(&self->vm, GOOD));
	EXPECT_EQ(EEXIST, try_bind(&self->vm, GOOD));
	EXPECT_EQ(EEXIST, try_bind(&self->vm, TO_VCPU(again, 0, VECTOR + 1)));
	EXPECT_EQ(EEXIST, try_bind(&self->vm, TO_SINK(self->source, self->sink)));
	/* The descriptor is not what counts. */
	EXPECT_EQ(0, try_unbind(&self->vm, again));
	EXPECT_EQ(ENOENT, try_unbind(&self->vm, self->source));
	EXPECT_REFUSED(ENOENT, TO_VCPU(self->source, 1, VECTOR));
	close(again);
}

TEST_F(inject, bound_in_another_vm)
{
	struct vm other;
	struct vcpu vcpu;

	posting_open(&other, &vcpu);
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&other, &vcpu, DESCRIPTORS, 1));
	ASSERT_EQ(0, try_bind(&other, GOOD));
	EXPECT_EQ(EBUSY, try_bind(&self->vm, GOOD));
	EXPECT_EQ(ENOENT, try_unbind(&self->vm, self->source));
	EXPECT_EQ(0, try_unbind(&other, self->source));
	EXPECT_EQ(0, try_bind(&self->vm, GOOD));
	vcpu_close(&vcpu);
	vm_close(&other);
}

TEST_F(inject, chains)
{
	struct vm other;
	int third = eventfd_open();

	vm_open(&other, PVIRQ_DEVICE);
	EXPECT_REFUSED(ELOOP, TO_SINK(self->source, self->source));
	ASSERT_EQ(0, try_bind(&self->vm, TO_SINK(self->source, self->sink)));
	EXPECT_EQ(ELOOP, try_bind(&self->vm, TO_SINK(self->sink, self->source)));
	EXPECT_EQ(ELOOP, try_bind(&other, TO_SINK(self->sink, self->source)));
	EXPECT_EQ(ELOOP, try_bind(&other, TO_SINK(self->sink, third)));
	EXPECT_EQ(ELOOP, try_bind(&other, TO_SINK(third, self->source)));
	EXPECT_EQ(0, try_bind(&other, TO_SINK(third, self->sink)));
	EXPECT_EQ(0, try_unbind(&other, third));
	EXPECT_EQ(0, try_unbind(&self->vm, self->source));
	EXPECT_EQ(0, try_bind(&other, TO_SINK(self->sink, self->source)));
	vm_close(&other);
	EXPECT_FREE(self->sink);
	close(third);
}

TEST_F(inject, another_process)
{
	pid_t pid = fork();
	int status;

	ASSERT_LE(0, pid);
	if (!pid)
		_exit(try_bind(&self->vm, GOOD));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(EIO, WEXITSTATUS(status));
	EXPECT_EQ(0, try_bind(&self->vm, GOOD));
}

TEST_F(inject, unknown_members_of_other_calls)
{
	struct pvirq_unbind unbind = { .size = sizeof(unbind), .source = self->source };
	struct pvirq_unbind bad[] = { unbind, unbind, unbind, unbind };
	struct pvirq_source source = { .size = sizeof(source), .source = self->source };
	struct pvirq_bottom_half half = { .size = sizeof(half) };

	bad[0].size--;
	bad[1].size++;
	bad[2].flags = 1;
	bad[3].reserved = 1;
	ASSERT_EQ(0, try_bind(&self->vm, GOOD));
	for (int i = 0; i < 4; i++) {
		EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_UNBIND, &bad[i]));
		EXPECT_EQ(EINVAL, errno) TH_LOG("argument %d", i);
	}
	source.flags = 1;
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_SOURCE, &source));
	EXPECT_EQ(EINVAL, errno);
	source.flags = 0;
	source.size++;
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_SOURCE, &source));
	EXPECT_EQ(EINVAL, errno);
	source.size--;
	EXPECT_EQ(0, ioctl(self->vm.fd, PVIRQ_GET_SOURCE, &source));
	EXPECT_EQ(0, source.top_halves);
	source.source = self->sink;
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_SOURCE, &source));
	EXPECT_EQ(ENOENT, errno);

	EXPECT_EQ(0, ioctl(self->vm.fd, PVIRQ_GET_BOTTOM_HALF, &half));
	half.kind = PVIRQ_BOTTOM_HALF_WORKQUEUE + 1;
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_BOTTOM_HALF, &half));
	EXPECT_EQ(EINVAL, errno);
	half.kind = PVIRQ_BOTTOM_HALF_TASKLET;
	half.cpu = ~0U;
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_BOTTOM_HALF, &half));
	EXPECT_EQ(ENOENT, errno);
	half.cpu = 0;
	half.flags = 1;
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_BOTTOM_HALF, &half));
	EXPECT_EQ(EINVAL, errno);
}

TEST(without_pvirq_there_are_no_such_calls)
{
	struct pvirq_bind bind = TO_SINK(0, 1);
	struct vm vm;

	vm_open(&vm, KVM_DEVICE);
	EXPECT_EQ(-1, ioctl(vm.fd, PVIRQ_BIND, &bind));
	EXPECT_EQ(ENOTTY, errno);
	vm_close(&vm);
}

TEST_HARNESS_MAIN
