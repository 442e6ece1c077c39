// SPDX-License-Identifier: GPL-2.0
/* Operations of files on each kind of descriptor: they fail, or not, as they do on KVM's. */
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"
#include "vm.h"

static long op_read(int fd)
{
	char byte;

	return read(fd, &byte, 1);
}

static long op_write(int fd)
{
	return write(fd, "x", 1);
}

static long op_pread(int fd)
{
	char byte;

	return pread(fd, &byte, 1, 0);
}

static long op_seek(int fd)
{
	return lseek(fd, 1, SEEK_SET);
}

static long op_seek_end(int fd)
{
	return lseek(fd, 0, SEEK_END);
}

static long op_truncate(int fd)
{
	return ftruncate(fd, 0);
}

static long op_sync(int fd)
{
	return fsync(fd);
}

static long op_allocate(int fd)
{
	return fallocate(fd, 0, 0, 1);
}

static long op_advise(int fd)
{
	return posix_fadvise(fd, 0, 1, POSIX_FADV_WILLNEED);
}

static long op_poll(int fd)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN | POLLOUT };

	return poll(&pollfd, 1, 0) << 16 | pollfd.revents;
}

static long op_epoll(int fd)
{
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(EPOLL_CLOEXEC), ret, error;

	ret = epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
	error = errno;
	close(epoll);
	errno = error;
	return ret;
}

static long op_lock(int fd)
{
	/* Anonymous files share an inode, and so their locks. */
	return flock(fd, LOCK_EX | LOCK_NB) || flock(fd, LOCK_UN);
}

static long op_splice(int fd)
{
	int pipes[2], error;
	long ret;

	if (pipe(pipes))
		die("pipe");
	ret = splice(fd, NULL, pipes[1], NULL, 1, SPLICE_F_NONBLOCK);
	error = errno;
	close(pipes[0]);
	close(pipes[1]);
	errno = error;
	return ret;
}

static long op_list(int fd)
{
	return openat(fd, "x", O_RDONLY);
}

static long op_async(int fd)
{
	return fcntl(fd, F_SETFL, O_ASYNC);
}

static long op_owner(int fd)
{
	return fcntl(fd, F_SETOWN, getpid());
}

static long op_direct(int fd)
{
	return fcntl(fd, F_SETFL, O_DIRECT);
}

/* Permissions are the administrator's choice. */
static long op_type(int fd)
{
	struct stat status;

	return fstat(fd, &status) ? -1 : (long)(status.st_mode & S_IFMT);
}

static long op_size(int fd)
{
	struct stat status;

	return fstat(fd, &status) ? -1 : status.st_size + status.st_blksize + status.st_nlink;
}

static long op_fionread(int fd)
{
	int count = 0;

	return ioctl(fd, FIONREAD, &count);
}

static long op_fionbio(int fd)
{
	int on = 1;

	return ioctl(fd, FIONBIO, &on);
}

static long op_fioasync(int fd)
{
	int on = 1;

	return ioctl(fd, FIOASYNC, &on);
}

static long op_reopen(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

#define OPERATION(name) { #name, op_##name }

static const struct {
	const char *name;
	long (*call)(int fd);
} operations[] = {
	OPERATION(read), OPERATION(write), OPERATION(pread), OPERATION(seek), OPERATION(seek_end),
	OPERATION(truncate), OPERATION(sync), OPERATION(allocate), OPERATION(advise), OPERATION(poll),
	OPERATION(epoll), OPERATION(lock), OPERATION(splice), OPERATION(list), OPERATION(async),
	OPERATION(owner), OPERATION(direct), OPERATION(type), OPERATION(size), OPERATION(fionread),
	OPERATION(fionbio), OPERATION(fioasync), OPERATION(reopen),
};

FIXTURE(operation)
{
	struct vm kvm;
	struct vm pvirq;
};

FIXTURE_VARIANT(operation)
{
	enum { DEVICE, VM, VCPU } on;
};

FIXTURE_VARIANT_ADD(operation, device)
{
	.on = DEVICE,
};

FIXTURE_VARIANT_ADD(operation, vm)
{
	.on = VM,
};

FIXTURE_VARIANT_ADD(operation, vcpu)
{
	.on = VCPU,
};

FIXTURE_SETUP(operation)
{
	vm_open(&self->kvm, KVM_DEVICE);
	vm_open(&self->pvirq, PVIRQ_DEVICE);
}

FIXTURE_TEARDOWN(operation)
{
	vm_close(&self->kvm);
	vm_close(&self->pvirq);
}

TEST_F(operation, parity)
{
	struct vcpu kvm, pvirq;
	int a, b;

	vcpu_open(&self->kvm, &kvm, 0);
	vcpu_open(&self->pvirq, &pvirq, 0);
	a = variant->on == DEVICE ? self->kvm.device : variant->on == VM ? self->kvm.fd : kvm.fd;
	b = variant->on == DEVICE ? self->pvirq.device : variant->on == VM ? self->pvirq.fd : pvirq.fd;
	for (unsigned int i = 0; i < ARRAY_SIZE(operations); i++) {
		long ret;
		int error;

		errno = 0;
		ret = operations[i].call(a);
		error = errno;
		errno = 0;
		EXPECT_EQ(ret, operations[i].call(b))
			TH_LOG("%s", operations[i].name);
		EXPECT_EQ(error, errno)
			TH_LOG("%s", operations[i].name);
	}
	vcpu_close(&kvm);
	vcpu_close(&pvirq);
}

TEST_HARNESS_MAIN
