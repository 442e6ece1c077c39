// SPDX-License-Identifier: GPL-2.0
/* The device: which users may open it and how, and that an open file holds the module. */
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "vm.h"

#define USER	1000
#define GROUP	2000

/* The errno of opening a device as a user. */
static int open_as(const char *device, uid_t uid, gid_t gid, gid_t group, int flags)
{
	int status;
	pid_t child = fork();

	if (!child) {
		if (setgroups(1, &group) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
			die("becoming user %u", uid);
		_exit(device_try_open(device, flags) < 0 ? errno : 0);
	}
	if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
		die("a child that opens %s", device);
	return WEXITSTATUS(status);
}

FIXTURE(access)
{
	struct stat kvm;
};

FIXTURE_SETUP(access)
{
	ASSERT_EQ(0, stat(KVM_DEVICE, &self->kvm));
	ASSERT_EQ(0, chown(KVM_DEVICE, USER, GROUP));
}

FIXTURE_TEARDOWN(access)
{
	EXPECT_EQ(0, chown(KVM_DEVICE, self->kvm.st_uid, self->kvm.st_gid));
	EXPECT_EQ(0, chmod(KVM_DEVICE, self->kvm.st_mode & 07777));
}

/* A user that may not open KVM's device gets the same error from ours. */
TEST_F(access, parity)
{
	static const mode_t modes[] = { 0000, 0400, 0200, 0600, 0040, 0060, 0660, 0004, 0006, 0666, 0444, 0222 };
	static const struct {
		uid_t uid;
		gid_t gid, group;
	} users[] = {
		{ 0, 0, 0 }, { USER, 1, 1 }, { USER + 1, 1, 1 }, { USER + 1, GROUP, 1 }, { USER + 1, 1, GROUP },
	};
	static const int flags[] = { O_RDONLY, O_WRONLY, O_RDWR };
	int refused = 0, allowed = 0;

	for (unsigned int m = 0; m < ARRAY_SIZE(modes); m++) {
		ASSERT_EQ(0, chmod(KVM_DEVICE, modes[m]));
		for (unsigned int w = 0; w < ARRAY_SIZE(users); w++)
			for (unsigned int f = 0; f < ARRAY_SIZE(flags); f++) {
				int expected = open_as(KVM_DEVICE, users[w].uid, users[w].gid, users[w].group, flags[f]);

				EXPECT_EQ(expected, open_as(PVIRQ_DEVICE, users[w].uid, users[w].gid, users[w].group,
							    flags[f]))
					TH_LOG("mode %04o, user %u, group %u and %u, flags %o", modes[m],
					       users[w].uid, users[w].gid, users[w].group, flags[f]);
				if (expected == EACCES)
					refused++;
				else if (!expected)
					allowed++;
			}
	}
	EXPECT_LT(50, refused);
	EXPECT_LT(50, allowed);
}

/* A descriptor that was opened for reading only can do what KVM's can. */
TEST(open_modes)
{
	static const int flags[] = {
		O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_NONBLOCK, O_RDWR | O_APPEND, O_RDWR | O_ASYNC,
		O_RDWR | O_TRUNC, O_RDWR | O_CREAT, O_RDWR | O_CREAT | O_EXCL, O_RDWR | O_DIRECTORY,
		O_RDWR | O_NOFOLLOW, O_RDWR | O_SYNC, O_RDWR | O_DIRECT, O_RDWR | O_CLOEXEC, O_RDWR | O_NOATIME,
		O_PATH,
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(flags); i++) {
		int kvm, pvirq, error;

		errno = 0;
		kvm = device_try_open(KVM_DEVICE, flags[i]);
		error = errno;
		errno = 0;
		pvirq = device_try_open(PVIRQ_DEVICE, flags[i]);
		EXPECT_EQ(error, errno)
			TH_LOG("flags %o", flags[i]);
		EXPECT_EQ(kvm < 0, pvirq < 0)
			TH_LOG("flags %o", flags[i]);
		if (kvm < 0 || pvirq < 0)
			continue;
		EXPECT_EQ(fcntl(kvm, F_GETFL), fcntl(pvirq, F_GETFL))
			TH_LOG("flags %o", flags[i]);
		EXPECT_EQ(fcntl(kvm, F_GETFD), fcntl(pvirq, F_GETFD))
			TH_LOG("flags %o", flags[i]);
		EXPECT_EQ(ioctl(kvm, KVM_GET_API_VERSION, 0), ioctl(pvirq, KVM_GET_API_VERSION, 0))
			TH_LOG("flags %o", flags[i]);
		close(kvm);
		close(pvirq);
	}
}

TEST(several_opens)
{
	int a = device_open(PVIRQ_DEVICE), b = device_open(PVIRQ_DEVICE), vm;

	EXPECT_EQ(KVM_API_VERSION, ioctl(a, KVM_GET_API_VERSION, 0));
	close(a);
	EXPECT_EQ(KVM_API_VERSION, ioctl(b, KVM_GET_API_VERSION, 0));
	vm = ioctl(b, KVM_CREATE_VM, 0);
	EXPECT_LE(0, vm);
	close(b);
	EXPECT_EQ(1, ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY));
	close(vm);
}

/* The overlay under KVM's name: it finds the real device all the same, and not itself. */
TEST(bind_mount)
{
	char runs[32] = "";
	struct vcpu vcpu;
	struct vm vm;

	if (!is_overlay(PVIRQ_DEVICE))
		SKIP(return, "not the overlay");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount(PVIRQ_DEVICE, KVM_DEVICE, NULL, MS_BIND, NULL));
	vm_open(&vm, KVM_DEVICE);
	vcpu_open(&vm, &vcpu, 0);
	vcpu_load(&vm, &vcpu, guest_count_out);
	for (int i = 0; i < 10; i++) {
		ASSERT_EQ(0, vcpu_run(&vcpu));
		ASSERT_EQ(KVM_EXIT_IO, vcpu.run->exit_reason);
	}
	EXPECT_TRUE(!!fdinfo(vcpu.fd, "pvirq-runs", runs, sizeof(runs)));
	EXPECT_STREQ("10", runs);
	vcpu_close(&vcpu);
	vm_close(&vm);
}

/* The module, which these tests unload and load. */
FIXTURE(module)
{
	const char *path;
};

FIXTURE_SETUP(module)
{
	self->path = getenv("PVIRQ_MODULE");
	if (!is_overlay(PVIRQ_DEVICE))
		SKIP(return, "not the overlay");
	ASSERT_TRUE(!!self->path)
		TH_LOG("PVIRQ_MODULE does not name the module");
	ASSERT_TRUE(eventually(module_references() == 0));
}

static int load_with(const char *path, const char *parameters)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret, error;

	if (fd < 0)
		die("open %s", path);
	ret = syscall(SYS_finit_module, fd, parameters, 0);
	error = errno;
	close(fd);
	errno = error;
	return ret;
}

static int load(const char *path)
{
	return load_with(path, "");
}

static int unload(void)
{
	return syscall(SYS_delete_module, "pvirq", O_NONBLOCK);
}

/* Later tests need the module. */
FIXTURE_TEARDOWN(module)
{
	if (module_references() < 0) {
		EXPECT_EQ(0, load(self->path));
	}
}

#define EXPECT_IN_USE()							\
	do {								\
		EXPECT_EQ(-1, unload());				\
		EXPECT_EQ(EWOULDBLOCK, errno);				\
	} while (0)

TEST_F(module, in_use)
{
	int device, vm, vcpu;

	device = device_open(PVIRQ_DEVICE);
	EXPECT_IN_USE();
	vm = ioctl(device, KVM_CREATE_VM, 0);
	ASSERT_LE(0, vm);
	close(device);
	EXPECT_IN_USE();
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	ASSERT_LE(0, vcpu);
	close(vm);
	EXPECT_IN_USE();
	close(vcpu);
	ASSERT_TRUE(eventually(module_references() == 0));
	EXPECT_EQ(0, unload());
	EXPECT_EQ(-1, open(PVIRQ_DEVICE, O_RDWR));
	EXPECT_EQ(ENOENT, errno);
}

/* What KVM itself has handed out works without the module. */
TEST_F(module, leftovers)
{
	static char statistics[64];
	struct vcpu vcpu;
	struct vm vm;
	int stats;

	vm_open(&vm, PVIRQ_DEVICE);
	vcpu_open(&vm, &vcpu, 0);
	vcpu_load(&vm, &vcpu, guest_count_out);
	ASSERT_EQ(0, vcpu_run(&vcpu));
	stats = ioctl(vcpu.fd, KVM_GET_STATS_FD, 0);
	ASSERT_LE(0, stats);
	close(vcpu.fd);
	vm_close(&vm);
	ASSERT_TRUE(eventually(module_references() == 0));
	ASSERT_EQ(0, unload());
	EXPECT_EQ(KVM_EXIT_IO, vcpu.run->exit_reason);
	EXPECT_EQ(sizeof(statistics), read(stats, statistics, sizeof(statistics)));
	munmap(vcpu.run, vcpu.run_size);
	close(stats);
}

TEST_F(module, load_and_unload)
{
	for (int i = 0; i < 10; i++) {
		int device;

		ASSERT_EQ(0, unload());
		ASSERT_EQ(0, load(self->path));
		device = device_open(PVIRQ_DEVICE);
		ASSERT_EQ(KVM_API_VERSION, ioctl(device, KVM_GET_API_VERSION, 0));
		close(device);
		ASSERT_TRUE(eventually(module_references() == 0));
	}
}

/* What is mounted over KVM's device is not taken for it. */
TEST_F(module, load_under_a_mount)
{
	ASSERT_EQ(0, unload());
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("/dev/null", KVM_DEVICE, NULL, MS_BIND, NULL));
	EXPECT_EQ(-1, load(self->path));
	EXPECT_EQ(ENODEV, errno);
	ASSERT_EQ(0, umount(KVM_DEVICE));
	EXPECT_EQ(0, load(self->path));
}

TEST_F(module, parameters_are_checked)
{
	const char *bad[] = {
		"port=0xb81", "host_poll_ns=10000001", "guest_poll_ns=10000001", "poll_budget=101", "poll_budget=-1",
		"moderation_ns=10000001",
	};

	ASSERT_EQ(0, unload());
	for (int i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		EXPECT_EQ(-1, load_with(self->path, bad[i]));
		EXPECT_EQ(EINVAL, errno)
			TH_LOG("%s", bad[i]);
	}
	ASSERT_EQ(0, load_with(self->path, "host_poll_ns=0 guest_poll_ns=10000000 poll_budget=100"));
	ASSERT_EQ(0, unload());
}

TEST_HARNESS_MAIN
