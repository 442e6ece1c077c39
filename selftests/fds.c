// SPDX-License-Identifier: GPL-2.0
/* Descriptors of the overlay's: they look, are passed on and are closed as KVM's. */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "vm.h"

FIXTURE(fds)
{
	struct vm vm;
	struct vcpu vcpu;
	int files;
};

ON_BOTH_DEVICES(fds);

FIXTURE_SETUP(fds)
{
	self->files = file_references();
	vm_open(&self->vm, variant->device);
	vcpu_open(&self->vm, &self->vcpu, 0);
	vcpu_load(&self->vm, &self->vcpu, guest_count_out);
}

FIXTURE_TEARDOWN(fds)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
	/* Whatever a test did with descriptors, none is left. */
	EXPECT_FILES(self->files);
}

static bool runs(struct vcpu *vcpu)
{
	return !vcpu_run(vcpu) && vcpu->run->exit_reason == KVM_EXIT_IO;
}

TEST_F(fds, names)
{
	char name[64];
	int vcpu;

	EXPECT_STREQ("anon_inode:kvm-vm", fd_name(self->vm.fd, name, sizeof(name)));
	EXPECT_STREQ("anon_inode:kvm-vcpu:0", fd_name(self->vcpu.fd, name, sizeof(name)));
	vcpu = ioctl(self->vm.fd, KVM_CREATE_VCPU, 77);
	ASSERT_LE(0, vcpu);
	EXPECT_STREQ("anon_inode:kvm-vcpu:77", fd_name(vcpu, name, sizeof(name)));
	close(vcpu);
}

/* A creation returns the lowest number that is free, and opens no other. */
TEST_F(fds, numbers)
{
	int before = fd_count(), lowest = fd_lowest_free(), vm, vcpu;

	vm = ioctl(self->vm.device, KVM_CREATE_VM, 0);
	EXPECT_EQ(lowest, vm);
	EXPECT_EQ(before + 1, fd_count());
	lowest = fd_lowest_free();
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	EXPECT_EQ(lowest, vcpu);
	EXPECT_EQ(before + 2, fd_count());
	close(vcpu);
	close(vm);
	EXPECT_EQ(before, fd_count());
}

TEST_F(fds, flags)
{
	EXPECT_EQ(FD_CLOEXEC, fcntl(self->vm.fd, F_GETFD));
	EXPECT_EQ(FD_CLOEXEC, fcntl(self->vcpu.fd, F_GETFD));
	EXPECT_EQ(O_RDWR, fcntl(self->vm.fd, F_GETFL) & ~O_LARGEFILE);
	EXPECT_EQ(O_RDWR, fcntl(self->vcpu.fd, F_GETFL) & ~O_LARGEFILE);
	EXPECT_EQ(0, fcntl(self->vcpu.fd, F_SETFL, O_NONBLOCK));
	EXPECT_EQ(O_RDWR | O_NONBLOCK, fcntl(self->vcpu.fd, F_GETFL) & ~O_LARGEFILE);
	EXPECT_TRUE(runs(&self->vcpu));
}

/* A program that the VMM executes gets no descriptor, unless it is to. */
TEST_F(fds, exec)
{
	char command[64];
	int status;
	pid_t child;

	ASSERT_EQ(0, fcntl(self->vm.fd, F_SETFD, 0));
	snprintf(command, sizeof(command), "test -e /proc/self/fd/%d && ! test -e /proc/self/fd/%d",
		 self->vm.fd, self->vcpu.fd);
	child = fork();
	if (!child) {
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
}

TEST_F(fds, dup)
{
	struct vcpu copy = self->vcpu;

	copy.fd = dup(self->vcpu.fd);
	ASSERT_LE(0, copy.fd);
	ASSERT_EQ(0, close(self->vcpu.fd));
	EXPECT_TRUE(runs(&copy));
	ASSERT_EQ(self->vcpu.fd, dup2(copy.fd, self->vcpu.fd));
	ASSERT_EQ(0, close(copy.fd));
	EXPECT_TRUE(runs(&self->vcpu));
}

/* The copies that a child has keep nothing from working, and go with it. */
TEST_F(fds, fork)
{
	int status, pipes[2];
	pid_t child;
	char byte;

	ASSERT_EQ(0, pipe(pipes));
	child = fork();
	if (!child) {
		close(pipes[1]);
		_exit(read(pipes[0], &byte, 1));
	}
	close(pipes[0]);
	EXPECT_TRUE(runs(&self->vcpu));
	close(self->vcpu.fd);
	close(self->vm.fd);
	close(self->vm.device);
	close(pipes[1]);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	self->vcpu.fd = self->vm.fd = self->vm.device = -1;
}

static void send_fd(int socket, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = {}, byte = 0;
	struct iovec vector = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &vector,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	if (sendmsg(socket, &message, 0) != 1)
		die("sendmsg");
}

static int receive_fd(int socket)
{
	char control[CMSG_SPACE(sizeof(int))] = {}, byte;
	struct iovec vector = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &vector,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	int fd;

	if (recvmsg(socket, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
		die("recvmsg");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
	return fd;
}

/* Another process gets the vCPU, cannot use it, and is the last to hold it. */
TEST_F(fds, pass_to_another_process)
{
	int sockets[2], status;
	pid_t child;

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	child = fork();
	if (!child) {
		char name[64], byte;
		int fd;

		close(self->vcpu.fd);
		close(self->vm.fd);
		close(sockets[0]);
		fd = receive_fd(sockets[1]);
		if (strcmp(fd_name(fd, name, sizeof(name)), "anon_inode:kvm-vcpu:0"))
			die("the descriptor is one of %s", name);
		if (!ioctl(fd, KVM_RUN, 0) || errno != EIO)
			die("KVM_RUN in the wrong process");
		/* Until the sender has closed everything. */
		_exit(read(sockets[1], &byte, 1));
	}
	send_fd(sockets[0], self->vcpu.fd);
	EXPECT_TRUE(runs(&self->vcpu));
	close(self->vcpu.fd);
	close(self->vm.fd);
	close(self->vm.device);
	close(sockets[1]);
	ASSERT_EQ(0, shutdown(sockets[0], SHUT_RDWR));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	self->vcpu.fd = self->vm.fd = self->vm.device = -1;
}

/* A vCPU in a message that no process receives, in a socket that is in a message itself. */
TEST_F(fds, lost_in_a_socket)
{
	int sockets[2];

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	send_fd(sockets[0], self->vcpu.fd);
	send_fd(sockets[0], self->vm.fd);
	send_fd(sockets[0], sockets[1]);
	close(sockets[0]);
	close(sockets[1]);
	EXPECT_TRUE(runs(&self->vcpu));
	/* The kernel looks for such sockets when it closes one. */
	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	close(sockets[0]);
	close(sockets[1]);
}

/* The descriptors are closed in every order, and a vCPU runs as long as its own is open. */
TEST_F(fds, close_in_every_order)
{
	static const char orders[][3] = { "dmc", "dcm", "mdc", "mcd", "cdm", "cmd" };

	for (unsigned int i = 0; i < ARRAY_SIZE(orders); i++) {
		bool open = true;
		struct vcpu vcpu;
		struct vm vm;

		vm_open(&vm, variant->device);
		vcpu_open(&vm, &vcpu, 0);
		vcpu_load(&vm, &vcpu, guest_count_out);
		for (unsigned int j = 0; j < 3; j++) {
			if (orders[i][j] == 'd')
				close(vm.device);
			if (orders[i][j] == 'm')
				close(vm.fd);
			if (orders[i][j] == 'c') {
				close(vcpu.fd);
				open = false;
			}
			if (open) {
				EXPECT_TRUE(runs(&vcpu))
					TH_LOG("after %u of %.3s", j + 1, orders[i]);
			}
		}
		munmap(vcpu.run, vcpu.run_size);
		munmap(vm.memory, GUEST_MEMORY);
	}
}

/* What the overlay says of a vCPU in fdinfo: how often it has run. */
TEST_F(fds, runs_are_counted)
{
	char runs_before[32], runs_after[32];

	if (!is_overlay(variant->device)) {
		EXPECT_FALSE(!!fdinfo(self->vcpu.fd, "pvirq-runs", runs_before, sizeof(runs_before)));
		return;
	}
	ASSERT_TRUE(!!fdinfo(self->vcpu.fd, "pvirq-runs", runs_before, sizeof(runs_before)));
	EXPECT_STREQ("0", runs_before);
	for (int i = 0; i < 123; i++)
		ASSERT_TRUE(runs(&self->vcpu));
	ASSERT_TRUE(!!fdinfo(self->vcpu.fd, "pvirq-runs", runs_after, sizeof(runs_after)));
	EXPECT_STREQ("123", runs_after);
}

TEST_HARNESS_MAIN
