// SPDX-License-Identifier: GPL-2.0
/* What a VMM has to say in posting: that it may be, which registration there is, and what is posted. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "posting.h"

#define COUNT	2

FIXTURE(posted)
{
	struct vm vm;
	struct vcpu vcpu;
	volatile struct pvirq_descriptor *descriptor;
	struct runner runner;
};

FIXTURE_SETUP(posted)
{
	posting_open(&self->vm, &self->vcpu);
	vm_set_handler(&self->vm, HIGHER, guest_handler_higher);
	self->descriptor = descriptor(&self->vm, 0);
}

FIXTURE_TEARDOWN(posted)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

#define REGISTER()	guest_register(&self->vm, &self->vcpu, DESCRIPTORS, COUNT)
#define COMMAND(command)	guest_command(&self->vm, &self->vcpu, command)

/* An ioctl on the VM: 0, or the errno. */
static int try(struct vm *vm, unsigned long number, void *argument)
{
	return ioctl(vm->fd, number, argument) ? errno : 0;
}

static int try_allow(struct vm *vm, uint32_t allowed)
{
	struct pvirq_posting posting = { .size = sizeof(posting), .allowed = allowed };

	return try(vm, PVIRQ_SET_POSTING, &posting);
}

static struct pvirq_posted posted_of(uint32_t vcpu)
{
	return (struct pvirq_posted){ .size = sizeof(struct pvirq_posted), .vcpu = vcpu };
}

static void add(struct pvirq_posted *posted, unsigned int vector)
{
	posted->vectors[vector / 64] |= 1ULL << vector % 64;
}

static bool is_among(const struct pvirq_posted *posted, unsigned int vector)
{
	return posted->vectors[vector / 64] >> vector % 64 & 1;
}

static struct pvirq_posted get_posted(struct vm *vm, uint32_t vcpu)
{
	struct pvirq_posted posted = posted_of(vcpu);

	if (ioctl(vm->fd, PVIRQ_GET_POSTED, &posted))
		die("PVIRQ_GET_POSTED");
	return posted;
}

static int post_by_vmm(struct vm *vm, uint32_t vcpu, unsigned int vector)
{
	struct pvirq_posted posted = posted_of(vcpu);

	add(&posted, vector);
	return try(vm, PVIRQ_SET_POSTED, &posted);
}

/* How many registrations of a VM have ended for a reason, by its name in fdinfo. */
static long ended(struct vm *vm, const char *reason)
{
	char field[64], value[32];

	snprintf(field, sizeof(field), "pvirq-ended-%s", reason);
	if (!fdinfo(vm->fd, field, value, sizeof(value)))
		die("fdinfo has no %s", field);
	return atol(value);
}

TEST_F(posted, registrations_are_told)
{
	struct pvirq_registration registration = registration_of(&self->vm);

	EXPECT_EQ(sizeof(registration), registration.size);
	EXPECT_EQ(1, registration.allowed);
	EXPECT_EQ(0, registration.epoch);
	EXPECT_EQ(0, registration.count);
	EXPECT_EQ(0, registration.address);
	EXPECT_EQ(PVIRQ_ENDED_NONE, registration.ended);
	EXPECT_EQ(0, registration.registrations);

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER());
	registration = registration_of(&self->vm);
	EXPECT_NE(0, registration.epoch);
	EXPECT_EQ(guest_read(&self->vm, &self->vcpu, PVIRQ_REG_EPOCH), registration.epoch);
	EXPECT_EQ(COUNT, registration.count);
	EXPECT_EQ(DESCRIPTORS, registration.address);
	EXPECT_EQ(PVIRQ_ENDED_NONE, registration.ended);
	EXPECT_EQ(1, registration.registrations);

	/* It is there already. */
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER());
	EXPECT_EQ(1, registration_of(&self->vm).registrations);
	ASSERT_EQ(PVIRQ_STATUS_OK, COMMAND(PVIRQ_COMMAND_UNREGISTER));
	registration = registration_of(&self->vm);
	EXPECT_EQ(0, registration.epoch);
	EXPECT_EQ(0, registration.count);
	EXPECT_EQ(0, registration.address);
	EXPECT_EQ(PVIRQ_ENDED_UNREGISTERED, registration.ended);
	EXPECT_EQ(1, registration.registrations);
}

TEST_F(posted, ends_are_counted_by_reason)
{
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER());
	ASSERT_EQ(PVIRQ_STATUS_OK, COMMAND(PVIRQ_COMMAND_UNREGISTER));
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER());
		ASSERT_EQ(0, try(&self->vm, PVIRQ_END_REGISTRATION, NULL));
	}
	for (int i = 0; i < 3; i++) {
		ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER());
		ASSERT_EQ(0, try_allow(&self->vm, 0));
		ASSERT_EQ(0, try_allow(&self->vm, 1));
	}
	EXPECT_EQ(1, ended(&self->vm, "unregistered"));
	EXPECT_EQ(2, ended(&self->vm, "vmm"));
	EXPECT_EQ(3, ended(&self->vm, "forbidden"));
	EXPECT_EQ(0, ended(&self->vm, "replaced"));
	EXPECT_EQ(0, ended(&self->vm, "memory-moved"));
	EXPECT_EQ(0, ended(&self->vm, "dirty-logging"));
	EXPECT_EQ(0, ended(&self->vm, "state-replaced"));
	EXPECT_EQ(6, registration_of(&self->vm).registrations);
}

/* Whatever was in the descriptors: no vCPU will poll, an idle guest halts, and what is pending is injected. */
TEST_F(posted, an_end_leaves_nothing_behind)
{
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER());
	GO_OUTSIDE();
	post(self->descriptor, VECTOR);
	for (int i = 0; i < COUNT; i++) {
		self->descriptor[i].host_state = PVIRQ_HOST_OUTSIDE;
		self->descriptor[i].guest_poll_ns = 1000;
		self->descriptor[i].host_poll_ns = 1000;
		self->descriptor[i].idle_end = PVIRQ_IDLE_EVENT;
	}
	ASSERT_EQ(0, try(&self->vm, PVIRQ_END_REGISTRATION, NULL));
	for (int i = 0; i < COUNT; i++) {
		EXPECT_EQ(PVIRQ_HOST_RUNNING, self->descriptor[i].host_state);
		EXPECT_EQ(0, self->descriptor[i].guest_poll_ns);
		EXPECT_EQ(0, self->descriptor[i].host_poll_ns);
		EXPECT_EQ(PVIRQ_IDLE_EXPIRED, self->descriptor[i].idle_end);
	}
	EXPECT_FALSE(is_pending(self->descriptor, VECTOR));
	EXPECT_HANDLED(0x77);
}

TEST_F(posted, the_vmm_ends_it)
{
	EXPECT_EQ(ENXIO, try(&self->vm, PVIRQ_END_REGISTRATION, NULL));
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER());
	EXPECT_EQ(0, try(&self->vm, PVIRQ_END_REGISTRATION, NULL));
	EXPECT_EQ(PVIRQ_ENDED_VMM, registration_of(&self->vm).ended);
	EXPECT_EQ(0, guest_read(&self->vm, &self->vcpu, PVIRQ_REG_EPOCH));
	EXPECT_EQ(ENXIO, try(&self->vm, PVIRQ_END_REGISTRATION, NULL));
	EXPECT_EQ(PVIRQ_STATUS_OK, REGISTER());
}

TEST_F(posted, the_vmm_forbids_it)
{
	/* Before there is any. */
	ASSERT_EQ(0, try_allow(&self->vm, 0));
	EXPECT_EQ(PVIRQ_ENDED_NONE, registration_of(&self->vm).ended);
	EXPECT_EQ(0, registration_of(&self->vm).allowed);
	EXPECT_EQ(PVIRQ_STATUS_FORBIDDEN, REGISTER());
	EXPECT_EQ(PVIRQ_STATUS_NOT_REGISTERED, COMMAND(PVIRQ_COMMAND_IDLE));
	ASSERT_EQ(0, try_allow(&self->vm, 1));
	EXPECT_EQ(PVIRQ_STATUS_OK, REGISTER());
	/* It was allowed. */
	ASSERT_EQ(0, try_allow(&self->vm, 1));
	EXPECT_TRUE(is_registered(&self->vm));
	/* While there is one. */
	ASSERT_EQ(0, try_allow(&self->vm, 0));
	EXPECT_FALSE(is_registered(&self->vm));
	EXPECT_EQ(PVIRQ_ENDED_FORBIDDEN, registration_of(&self->vm).ended);
	EXPECT_EQ(PVIRQ_STATUS_FORBIDDEN, REGISTER());
}

TEST_F(posted, what_is_posted_can_be_read)
{
	int source = VECTOR, kicked = HIGHER;

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER());
	GO_OUTSIDE();
	post(self->descriptor, source);
	post(self->descriptor, 255);
	/* Reserved. */
	post(self->descriptor, 3);
	ASSERT_EQ(0, post_by_vmm(&self->vm, 0, kicked));
	for (int i = 0; i < 2; i++) {
		struct pvirq_posted posted = get_posted(&self->vm, 0);

		EXPECT_TRUE(is_among(&posted, source));
		EXPECT_TRUE(is_among(&posted, kicked));
		EXPECT_EQ(0, posted.vectors[0]);
		EXPECT_EQ(0, posted.vectors[2]);
		EXPECT_EQ(1ULL << 63, posted.vectors[3]);
	}
	EXPECT_TRUE(is_pending(self->descriptor, source));
	EXPECT_EQ(0, get_posted(&self->vm, 0).vectors[0]);
}

/* What the VMM of a restored VM has read elsewhere: no run and no registration goes before. */
TEST_F(posted, by_the_vmm_before_all_else)
{
	struct pvirq_posted posted = posted_of(0);

	add(&posted, VECTOR);
	add(&posted, HIGHER);
	ASSERT_EQ(0, try(&self->vm, PVIRQ_SET_POSTED, &posted));
	EXPECT_EQ(0, memcmp(&posted, &(struct pvirq_posted[]){ get_posted(&self->vm, 0) }[0], sizeof(posted)));
	/* As a VMM that restores state does, in whatever order. */
	vcpu_reset(&self->vcpu);
	vcpu_enable_lapic(&self->vcpu);
	vcpu_restart(&self->vcpu);
	LOAD(guest_sleep);
	EXPECT_HANDLED(0x88);
	vcpu_end_interrupts(&self->vcpu);
	EXPECT_HANDLED(0x77);
	EXPECT_EQ(2, STATISTIC("injected"));
	EXPECT_EQ(0, get_posted(&self->vm, 0).vectors[1]);
}

/* The vCPU's thread has been in KVM_RUN for long. */
TEST_F(posted, by_the_vmm_to_a_vcpu_that_runs)
{
	unsigned long counter;

	LOAD(guest_wait);
	pin(1);
	counter = guest_counter(&self->vm);
	runner_start(&self->runner, &self->vcpu);
	ASSERT_TRUE(eventually(guest_counter(&self->vm) != counter));
	ASSERT_EQ(0, post_by_vmm(&self->vm, 0, VECTOR));
	ASSERT_EQ(0, runner_wait(&self->runner));
	EXPECT_EQ(0x77, *(uint8_t *)vcpu_io_data(&self->vcpu));
	/* And once more, as it is known by now. */
	vcpu_end_interrupts(&self->vcpu);
	runner_start(&self->runner, &self->vcpu);
	ASSERT_EQ(0, post_by_vmm(&self->vm, 0, VECTOR));
	ASSERT_EQ(0, runner_wait(&self->runner));
	EXPECT_EQ(0x77, *(uint8_t *)vcpu_io_data(&self->vcpu));
}

/* Each of these calls is refused for what is wrong with it, and then accepted. */
TEST_F(posted, unknown_members)
{
	struct pvirq_registration registration = { .size = sizeof(registration) };
	struct pvirq_posting posting = { .size = sizeof(posting), .allowed = 1 };
	struct pvirq_posted posted = posted_of(0);

#define EXPECT_INVALID(number, argument, change)				\
	do {									\
		typeof(argument) bad = argument;				\
										\
		bad.change;							\
		EXPECT_EQ(EINVAL, try(&self->vm, number, &bad))			\
			TH_LOG("%s with %s", #number, #change);			\
		EXPECT_EQ(0, try(&self->vm, number, &(typeof(argument)[]){ argument }[0]));	\
	} while (0)

	EXPECT_INVALID(PVIRQ_SET_POSTING, posting, size--);
	EXPECT_INVALID(PVIRQ_SET_POSTING, posting, size++);
	EXPECT_INVALID(PVIRQ_SET_POSTING, posting, flags = 1);
	EXPECT_INVALID(PVIRQ_SET_POSTING, posting, allowed = 2);
	EXPECT_INVALID(PVIRQ_SET_POSTING, posting, reserved = 1);
	EXPECT_INVALID(PVIRQ_GET_REGISTRATION, registration, size--);
	EXPECT_INVALID(PVIRQ_GET_REGISTRATION, registration, size++);
	EXPECT_INVALID(PVIRQ_GET_REGISTRATION, registration, flags = 1U << 31);
	EXPECT_INVALID(PVIRQ_GET_POSTED, posted, size--);
	EXPECT_INVALID(PVIRQ_GET_POSTED, posted, size++);
	EXPECT_INVALID(PVIRQ_GET_POSTED, posted, flags = 1);
	EXPECT_INVALID(PVIRQ_GET_POSTED, posted, reserved = 1);
	EXPECT_INVALID(PVIRQ_SET_POSTED, posted, size--);
	EXPECT_INVALID(PVIRQ_SET_POSTED, posted, size++);
	EXPECT_INVALID(PVIRQ_SET_POSTED, posted, flags = 1);
	EXPECT_INVALID(PVIRQ_SET_POSTED, posted, reserved = 1);
	for (int vector = 0; vector < PVIRQ_FIRST_VECTOR; vector++)
		EXPECT_INVALID(PVIRQ_SET_POSTED, posted, vectors[0] = 1 << vector);
	EXPECT_EQ(0, get_posted(&self->vm, 0).vectors[0]);
}

TEST_F(posted, arguments_out_of_reach)
{
	void *argument = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	ASSERT_NE(MAP_FAILED, argument);
	EXPECT_EQ(EFAULT, try(&self->vm, PVIRQ_SET_POSTING, NULL));
	EXPECT_EQ(EFAULT, try(&self->vm, PVIRQ_GET_REGISTRATION, NULL));
	EXPECT_EQ(EFAULT, try(&self->vm, PVIRQ_GET_POSTED, NULL));
	EXPECT_EQ(EFAULT, try(&self->vm, PVIRQ_SET_POSTED, NULL));
	/* Readable, but not writable. */
	*(struct pvirq_registration *)argument = (struct pvirq_registration){ .size = sizeof(struct pvirq_registration) };
	ASSERT_EQ(0, mprotect(argument, PAGE_SIZE, PROT_READ));
	EXPECT_EQ(EFAULT, try(&self->vm, PVIRQ_GET_REGISTRATION, argument));
	ASSERT_EQ(0, mprotect(argument, PAGE_SIZE, PROT_READ | PROT_WRITE));
	*(struct pvirq_posted *)argument = posted_of(0);
	ASSERT_EQ(0, mprotect(argument, PAGE_SIZE, PROT_READ));
	EXPECT_EQ(EFAULT, try(&self->vm, PVIRQ_GET_POSTED, argument));
	munmap(argument, PAGE_SIZE);
}

TEST_F(posted, no_such_vcpu)
{
	struct pvirq_posted posted = posted_of(1);
	struct vcpu vcpu;
	struct vm vm;

	EXPECT_EQ(ENOENT, try(&self->vm, PVIRQ_GET_POSTED, &posted));
	EXPECT_EQ(ENOENT, try(&self->vm, PVIRQ_SET_POSTED, &posted));
	/* One without a local APIC. */
	vm_open(&vm, PVIRQ_DEVICE);
	vcpu_open(&vm, &vcpu, 1);
	EXPECT_EQ(0, try(&vm, PVIRQ_GET_POSTED, &posted));
	EXPECT_EQ(ENXIO, try(&vm, PVIRQ_SET_POSTED, &posted));
	vcpu_close(&vcpu);
	vm_close(&vm);
	/* One that messages do not reach: they would go to all. */
	posted.vcpu = 255;
	vcpu_open(&self->vm, &vcpu, posted.vcpu);
	EXPECT_EQ(0, try(&self->vm, PVIRQ_GET_POSTED, &posted));
	EXPECT_EQ(ENXIO, try(&self->vm, PVIRQ_SET_POSTED, &posted));
	vcpu_close(&vcpu);
}

TEST_F(posted, another_process)
{
	int status;
	pid_t pid;

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER());
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid)
		_exit(try_allow(&self->vm, 0) != EIO || try(&self->vm, PVIRQ_END_REGISTRATION, NULL) != EIO ||
		      post_by_vmm(&self->vm, 0, VECTOR) != EIO || !is_registered(&self->vm));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_TRUE(is_registered(&self->vm));
	EXPECT_EQ(0, get_posted(&self->vm, 0).vectors[1]);
}

TEST(without_pvirq_there_are_no_such_calls)
{
	struct pvirq_registration registration = { .size = sizeof(registration) };
	struct pvirq_posted posted = posted_of(0);
	struct vm vm;

	vm_open(&vm, KVM_DEVICE);
	EXPECT_EQ(ENOTTY, try_allow(&vm, 1));
	EXPECT_EQ(ENOTTY, try(&vm, PVIRQ_GET_REGISTRATION, &registration));
	EXPECT_EQ(ENOTTY, try(&vm, PVIRQ_END_REGISTRATION, NULL));
	EXPECT_EQ(ENOTTY, try(&vm, PVIRQ_GET_POSTED, &posted));
	EXPECT_EQ(ENOTTY, try(&vm, PVIRQ_SET_POSTED, &posted));
	vm_close(&vm);
}

TEST_HARNESS_MAIN
