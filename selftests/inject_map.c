// SPDX-License-Identifier: GPL-2.0
/* Descriptors that the VMM has mapped: that it reaches its guest by them, and does no harm when they are gone. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "harness.h"
#include "injection.h"

/* The offset of the array in its page, so that one that is ignored is noticed, and how many descriptors there are. */
#define OFFSET	0x300
#define ARRAY	(DESCRIPTORS + OFFSET)
#define COUNT	2

struct mapping {
	struct pvirq_map map;
	int fd;
	unsigned char *memory;
};

/* PVIRQ_MAP_DESCRIPTORS: a descriptor, or a negative errno. */
static int try_map(struct vm *vm, struct pvirq_map *map)
{
	int fd = ioctl(vm->fd, PVIRQ_MAP_DESCRIPTORS, map);

	return fd < 0 ? -errno : fd;
}

static int mapping_open(struct vm *vm, struct mapping *mapping)
{
	mapping->map = (struct pvirq_map){ .size = sizeof(mapping->map) };
	mapping->fd = try_map(vm, &mapping->map);
	if (mapping->fd < 0)
		return mapping->fd;
	mapping->memory = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, mapping->fd, 0);
	return mapping->memory == MAP_FAILED ? -errno : 0;
}

static void mapping_close(struct mapping *mapping)
{
	munmap(mapping->memory, PAGE_SIZE);
	close(mapping->fd);
}

static volatile struct pvirq_descriptor *mapped(struct mapping *mapping, unsigned int index)
{
	return (volatile struct pvirq_descriptor *)(mapping->memory + mapping->map.offset) + index;
}

/* Posts as Documentation/protocol.rst says; true if the vCPU has to be kicked. */
static bool post_says_kick(volatile struct pvirq_descriptor *to, unsigned int vector)
{
	uint64_t bit = 1ULL << vector % 64;

	if (post(to, vector))
		return false;
	if (__atomic_load_n(&to->guest_state, __ATOMIC_SEQ_CST) == PVIRQ_GUEST_POLLING)
		return false;
	switch (host_state(to)) {
	case PVIRQ_HOST_PREEMPTED:
	case PVIRQ_HOST_OUTSIDE:
	case PVIRQ_HOST_POLLING:
		return false;
	}
	return __atomic_fetch_and(&to->pending[vector / 64], ~bit, __ATOMIC_SEQ_CST) & bit;
}

FIXTURE(map)
{
	struct vm vm;
	struct vcpu vcpu;
	struct mapping mapping;
};

FIXTURE_SETUP(map)
{
	posting_open(&self->vm, &self->vcpu);
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, ARRAY, COUNT));
	ASSERT_EQ(0, mapping_open(&self->vm, &self->mapping));
}

FIXTURE_TEARDOWN(map)
{
	mapping_close(&self->mapping);
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

static volatile struct pvirq_descriptor *array(struct vm *vm)
{
	return (volatile struct pvirq_descriptor *)(vm->memory + ARRAY);
}

/* Expects that the mapping has blank descriptors: a post says so, and is not seen in the guest's memory. */
#define EXPECT_BLANK()								\
	do {									\
		unsigned char _before[COUNT * sizeof(struct pvirq_descriptor)];	\
		memcpy(_before, self->vm.memory + ARRAY, sizeof(_before));	\
		for (int _i = 0; _i < COUNT; _i++) {				\
			EXPECT_TRUE(post_says_kick(mapped(&self->mapping, _i), VECTOR));	\
			EXPECT_FALSE(post(mapped(&self->mapping, _i), HIGHER));	\
		}								\
		EXPECT_EQ(0, memcmp(_before, self->vm.memory + ARRAY, sizeof(_before)));	\
	} while (0)

TEST_F(map, unknown_members)
{
	struct pvirq_map good = { .size = sizeof(good) };
	struct pvirq_map bad[5] = { good, good, good, good, good };

	bad[0].size--;
	bad[1].size++;
	bad[2].size = 0;
	bad[3].flags = 1;
	bad[4].flags = 1U << 31;
	for (int i = 0; i < 5; i++) {
		EXPECT_EQ(-EINVAL, try_map(&self->vm, &bad[i]))
			TH_LOG("argument %d", i);
	}
}

TEST_F(map, unreadable_arguments)
{
	struct pvirq_map *map = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int next = eventfd_open();

	ASSERT_NE(MAP_FAILED, map);
	close(next);
	map->size = sizeof(*map);
	EXPECT_EQ(-EFAULT, try_map(&self->vm, NULL));
	ASSERT_EQ(0, mprotect(map, PAGE_SIZE, PROT_READ));
	EXPECT_EQ(-EFAULT, try_map(&self->vm, map));
	/* It has left no descriptor behind. */
	EXPECT_EQ(next, eventfd_open());
	munmap(map, PAGE_SIZE);
}

TEST_F(map, nothing_is_registered)
{
	struct pvirq_map map = { .size = sizeof(map) };

	ASSERT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_UNREGISTER));
	EXPECT_EQ(-ENXIO, try_map(&self->vm, &map));
}

TEST_F(map, another_process)
{
	pid_t pid = fork();
	int status;

	ASSERT_LE(0, pid);
	if (!pid) {
		struct pvirq_map map = { .size = sizeof(map) };

		_exit(-try_map(&self->vm, &map));
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(EIO, WEXITSTATUS(status));
}

TEST_F(map, no_descriptors_left)
{
	struct pvirq_map map = { .size = sizeof(map) };

	descriptors_limit(0);
	EXPECT_EQ(-EMFILE, try_map(&self->vm, &map));
	descriptors_unlimit();
}

TEST(without_pvirq_there_is_no_such_call)
{
	struct pvirq_map map = { .size = sizeof(map) };
	struct vm vm;

	vm_open(&vm, KVM_DEVICE);
	EXPECT_EQ(-ENOTTY, try_map(&vm, &map));
	vm_close(&vm);
}

#define TRY_MMAP(size, protection, flags, offset)				\
	({									\
		void *_memory = mmap(NULL, size, protection, flags, self->mapping.fd, offset);	\
		int _errno = _memory == MAP_FAILED ? errno : 0;			\
		if (!_errno)							\
			munmap(_memory, size);					\
		_errno;								\
	})

TEST_F(map, what_can_be_mapped)
{
	EXPECT_EQ(0, TRY_MMAP(PAGE_SIZE, PROT_READ, MAP_SHARED, 0));
	EXPECT_EQ(EINVAL, TRY_MMAP(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0));
	EXPECT_EQ(EINVAL, TRY_MMAP(PAGE_SIZE, PROT_READ, MAP_PRIVATE, 0));
	EXPECT_EQ(EINVAL, TRY_MMAP(2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, 0));
	EXPECT_EQ(EINVAL, TRY_MMAP(PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, PAGE_SIZE));
	EXPECT_EQ(MAP_FAILED, mremap(self->mapping.memory, PAGE_SIZE, 2 * PAGE_SIZE, MREMAP_MAYMOVE));
	EXPECT_EQ(FD_CLOEXEC, fcntl(self->mapping.fd, F_GETFD));
}

TEST_F(map, posts_arrive)
{
	EXPECT_EQ(OFFSET, self->mapping.map.offset);
	EXPECT_EQ(COUNT, self->mapping.map.count);
	GO_OUTSIDE();
	ASSERT_EQ(PVIRQ_HOST_OUTSIDE, host_state(mapped(&self->mapping, 0)));
	EXPECT_FALSE(post_says_kick(mapped(&self->mapping, 0), VECTOR));
	EXPECT_TRUE(is_pending(array(&self->vm), VECTOR));
	EXPECT_HANDLED(0x77);
	EXPECT_EQ(1, STATISTIC("injected"));
}

/* What was posted before the end is delivered, and what is posted after it is not written to the guest's memory. */
TEST_F(map, the_guest_unregisters)
{
	ASSERT_FALSE(post(mapped(&self->mapping, 0), VECTOR));
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_UNREGISTER));
	EXPECT_BLANK();
	LOAD(guest_sleep);
	EXPECT_HANDLED(0x77);
}

TEST_F(map, the_guest_registers_again)
{
	struct mapping new;

	/* What is registered already stays. */
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, ARRAY, COUNT));
	ASSERT_FALSE(post(mapped(&self->mapping, 0), VECTOR));
	ASSERT_TRUE(is_pending(array(&self->vm), VECTOR));
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, ARRAY, COUNT + 1));
	EXPECT_BLANK();
	ASSERT_EQ(0, mapping_open(&self->vm, &new));
	EXPECT_FALSE(post(mapped(&new, 1), VECTOR));
	EXPECT_TRUE(is_pending(array(&self->vm) + 1, VECTOR));
	mapping_close(&new);
}

TEST_F(map, the_vcpu_is_reset)
{
	vcpu_restart(&self->vcpu);
	EXPECT_BLANK();
}

TEST_F(map, the_memory_slot_goes)
{
	vm_map_memory(&self->vm, 0, 0, NULL, 0, 0);
	EXPECT_BLANK();
}

TEST_F(map, the_vm_ends)
{
	close(self->vm.fd);
	EXPECT_BLANK();
	self->vm.fd = -1;
}

/* Mappings outlive the file, and their copies the process. */
TEST_F(map, in_a_child)
{
	int status;
	pid_t pid;

	close(self->mapping.fd);
	self->mapping.fd = -1;
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (!is_pending(mapped(&self->mapping, 0), VECTOR))
			sched_yield();
		post(mapped(&self->mapping, 1), VECTOR);
		while (is_pending(mapped(&self->mapping, 1), VECTOR))
			sched_yield();
		_exit(!post_says_kick(mapped(&self->mapping, 1), VECTOR));
	}
	ASSERT_FALSE(post(mapped(&self->mapping, 0), VECTOR));
	ASSERT_TRUE(eventually(is_pending(array(&self->vm) + 1, VECTOR)));
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_UNREGISTER));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
}

/* The mapping keeps no pages: they cannot be registered there. */
TEST_F(map, cannot_be_pinned)
{
	vm_map_memory(&self->vm, 1, 1 << 20, self->mapping.memory, PAGE_SIZE, 0);
	EXPECT_EQ(PVIRQ_STATUS_NOT_RAM, guest_register(&self->vm, &self->vcpu, 1 << 20, 1));
}

/* Where the guest runs while others register, what it executes, and what its handler has seen of what was sent. */
#define LOOP	0x5000
#define HANDLER	0x3000
#define SENT	0x6000
#define SEEN	0x6004
#define LAPIC_EOI	0xfee000b0

GUEST(guest_loop,
	"	sti\n"
	"1:	jmp	1b\n");
GUEST(handler_sees,
	"	push	%eax\n"
	"	push	%ebx\n"
	"	mov	" STR(SENT) ", %eax\n"
	"	mov	%eax, " STR(SEEN) "\n"
	"	mov	$" STR(LAPIC_EOI) ", %ebx\n"
	"	movl	$0, (%ebx)\n"
	"	pop	%ebx\n"
	"	pop	%eax\n"
	"	iret\n");

struct sender {
	volatile struct pvirq_descriptor *to;
	volatile uint32_t *sent;
	int source;
	uint32_t kicked;
	volatile bool stop;
};

static void *send_all(void *data)
{
	struct sender *sender = data;

	pin(1);
	while (!sender->stop) {
		__atomic_store_n(sender->sent, *sender->sent + 1, __ATOMIC_SEQ_CST);
		if (post_says_kick(sender->to, VECTOR)) {
			eventfd_signal(sender->source);
			sender->kicked++;
		}
	}
	return NULL;
}

static void wait_a_little(void)
{
	uint64_t end = now() + 1000000;

	while (now() < end)
		sched_yield();
}

/* However often the guest takes its descriptors away while a sender posts: its memory is its own, nothing is lost. */
TEST_F(map, unregistered_while_posting)
{
	struct kvm_regs regs = { .rip = LOOP, .rsp = GUEST_STACK, .rflags = 2 };
	uint16_t entry[2] = { HANDLER, 0 };
	unsigned char pattern[COUNT * sizeof(struct pvirq_descriptor)];
	volatile uint32_t *seen = (void *)(self->vm.memory + SEEN);
	struct sender sender = { .sent = (void *)(self->vm.memory + SENT), .source = eventfd_open() };
	struct contender contender;
	struct runner runner;
	struct kvm_sregs sregs;
	struct vcpu other;
	uint32_t kicked = 0;
	int round;

	vcpu_open(&self->vm, &other, 1);
	vcpu_reset(&other);
	ASSERT_EQ(0, ioctl(other.fd, KVM_SET_MP_STATE, &(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE }));
	vm_write(&self->vm, LOOP, guest_loop, guest_loop_end - guest_loop);
	vm_write(&self->vm, HANDLER, handler_sees, handler_sees_end - handler_sees);
	vm_write(&self->vm, VECTOR * sizeof(entry), entry, sizeof(entry));
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_SREGS, &sregs));
	/* The handler writes to the local APIC, in real mode. */
	sregs.ds.limit = ~0U;
	sregs.ds.g = 1;
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_SREGS, &sregs));
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_REGS, &regs));
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &other, ARRAY, COUNT));
	ASSERT_EQ(0, try_bind(&self->vm, TO_VCPU(sender.source, 0, VECTOR)));
	memset(pattern, 0x5a, sizeof(pattern));
	*sender.sent = *seen = 0;
	pin(1);
	runner_start(&runner, &self->vcpu);
	contender_start(&contender);
	repeat(round, repeats(60)) {
		struct mapping mapping;
		pthread_t thread;

		memset(self->vm.memory + ARRAY, 0, sizeof(pattern));
		ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &other, ARRAY, COUNT));
		ASSERT_EQ(0, mapping_open(&self->vm, &mapping));
		sender.to = mapped(&mapping, 0);
		sender.stop = false;
		ASSERT_EQ(0, pthread_create(&thread, NULL, send_all, &sender));
		wait_a_little();
		ASSERT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &other, PVIRQ_COMMAND_UNREGISTER));
		memcpy(self->vm.memory + ARRAY, pattern, sizeof(pattern));
		kicked = sender.kicked;
		ASSERT_TRUE(eventually(sender.kicked != kicked));
		ASSERT_EQ(0, memcmp(self->vm.memory + ARRAY, pattern, sizeof(pattern))) TH_LOG("round %d", round);
		sender.stop = true;
		pthread_join(thread, NULL);
		ASSERT_TRUE(eventually(*seen == *sender.sent))
			TH_LOG("round %d: of %u posts the guest has seen the first %u", round, *sender.sent, *seen);
		mapping_close(&mapping);
	}
	contender_stop(&contender);
	EXPECT_EQ(-EINTR, runner_stop(&runner));
	EXPECT_LT(sender.kicked, *sender.sent);
	TH_LOG("%u posts, %u kicks", *sender.sent, sender.kicked);
	close(sender.source);
	vcpu_close(&other);
}

TEST_HARNESS_MAIN
