// SPDX-License-Identifier: GPL-2.0
/* Mappings of a vCPU: kvm_run, the data of I/O, coalesced writes, the dirty ring. */
#include <setjmp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "vm.h"

/* Pages of a vCPU's mapping. */
#define RUN_PAGE	0
#define PIO_PAGE	1
#define COALESCED_PAGE	2
#define PAGES		3

/* Writes a word to the port, for ever. */
GUEST(guest_out,
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	mov	$0x1234, %ax\n"
	"1:	out	%ax, %dx\n"
	"	jmp	1b\n");

/* Writes four words into the hole in memory, then to the port. */
GUEST(guest_mmio,
	"	xor	%eax, %eax\n"
	"1:	mov	%eax, %es:0\n"
	"	inc	%eax\n"
	"	cmp	$4, %eax\n"
	"	jne	1b\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	out	%al, %dx\n");

FIXTURE(map)
{
	struct vm vm;
	struct vcpu vcpu;
};

ON_BOTH_DEVICES(map);

FIXTURE_SETUP(map)
{
	vm_open(&self->vm, variant->device);
	vcpu_open(&self->vm, &self->vcpu, 0);
	vcpu_load(&self->vm, &self->vcpu, guest_out);
}

FIXTURE_TEARDOWN(map)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

static sigjmp_buf fault;

static void handle_fault(int signal)
{
	siglongjmp(fault, signal);
}

/* Reads a byte, or writes it; the signal that comes of it, or 0. */
static int touch(volatile char *address, bool write)
{
	struct sigaction action = { .sa_handler = handle_fault }, bus, segv;
	int signal;

	sigaction(SIGBUS, &action, &bus);
	sigaction(SIGSEGV, &action, &segv);
	signal = sigsetjmp(fault, 1);
	if (!signal) {
		char byte = *address;

		if (write)
			*address = byte;
	}
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	return signal;
}

static void *map(struct vcpu *vcpu, size_t pages, int protection, int flags, off_t page)
{
	return mmap(NULL, pages * PAGE_SIZE, protection, flags, vcpu->fd, page * PAGE_SIZE);
}

#define READ_WRITE	(PROT_READ | PROT_WRITE)

static bool mapped(const void *address)
{
	return address != MAP_FAILED;
}

TEST_F(map, size)
{
	ASSERT_EQ(PAGES * PAGE_SIZE, ioctl(self->vm.device, KVM_GET_VCPU_MMAP_SIZE, 0));
}

/* A second mapping, of each page by itself, shows what the first does. */
TEST_F(map, same_pages)
{
	struct kvm_run *run = map(&self->vcpu, 1, READ_WRITE, MAP_SHARED, RUN_PAGE);
	uint16_t *data = map(&self->vcpu, 1, READ_WRITE, MAP_SHARED, PIO_PAGE);

	ASSERT_TRUE(mapped(run));
	ASSERT_TRUE(mapped(data));
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(KVM_EXIT_IO, run->exit_reason);
	ASSERT_EQ(PAGE_SIZE, run->io.data_offset);
	ASSERT_EQ(0x1234, *data);
	/* And KVM reads what is written to it. */
	run->immediate_exit = 1;
	ASSERT_EQ(-EINTR, vcpu_run(&self->vcpu));
}

TEST_F(map, coalesced_writes)
{
	struct kvm_coalesced_mmio_zone zone = { .addr = GUEST_MMIO, .size = PAGE_SIZE };
	struct kvm_coalesced_mmio_ring *ring = map(&self->vcpu, 1, READ_WRITE, MAP_SHARED, COALESCED_PAGE);

	ASSERT_EQ(COALESCED_PAGE, ioctl(self->vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO));
	ASSERT_TRUE(mapped(ring));
	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_REGISTER_COALESCED_MMIO, &zone));
	vcpu_load(&self->vm, &self->vcpu, guest_mmio);
	/* The writes to memory that is not there do not make the guest exit. */
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);
	ASSERT_EQ(0, ring->first);
	ASSERT_EQ(4, ring->last);
	for (uint32_t i = 0; i < 4; i++) {
		ASSERT_EQ(GUEST_MMIO, ring->coalesced_mmio[i].phys_addr);
		ASSERT_EQ(4, ring->coalesced_mmio[i].len);
		ASSERT_EQ(0, memcmp(ring->coalesced_mmio[i].data, &i, sizeof(i)));
	}
}

/* Anything can be mapped; what is not there cannot be touched. */
TEST_F(map, beyond_the_end)
{
	static const off_t pages[] = { PAGES, PAGES + 1, KVM_DIRTY_LOG_PAGE_OFFSET, 1000, 0x7ffff };
	char *whole;

	for (unsigned int i = 0; i < ARRAY_SIZE(pages); i++) {
		char *address = map(&self->vcpu, 1, READ_WRITE, MAP_SHARED, pages[i]);

		ASSERT_TRUE(mapped(address));
		EXPECT_EQ(SIGBUS, touch(address, false))
			TH_LOG("page %ld", (long)pages[i]);
		ASSERT_EQ(0, munmap(address, PAGE_SIZE));
	}
	whole = map(&self->vcpu, PAGES + 2, READ_WRITE, MAP_SHARED, 0);
	ASSERT_TRUE(mapped(whole));
	EXPECT_EQ(0, touch(whole + (PAGES - 1) * PAGE_SIZE, true));
	EXPECT_EQ(SIGBUS, touch(whole + PAGES * PAGE_SIZE, false));
}

TEST_F(map, protection)
{
	char *address;

	address = map(&self->vcpu, PAGES, PROT_READ, MAP_SHARED, 0);
	ASSERT_TRUE(mapped(address));
	EXPECT_EQ(0, touch(address, false));
	EXPECT_EQ(SIGSEGV, touch(address, true));
	ASSERT_EQ(0, mprotect(address, PAGES * PAGE_SIZE, READ_WRITE));
	EXPECT_EQ(0, touch(address, true));
	ASSERT_EQ(0, mprotect(address, PAGES * PAGE_SIZE, PROT_NONE));
	EXPECT_EQ(SIGSEGV, touch(address, false));

	/* Anonymous inodes hold no code. */
	EXPECT_FALSE(mapped(map(&self->vcpu, PAGES, PROT_READ | PROT_EXEC, MAP_SHARED, 0)));
	EXPECT_EQ(EPERM, errno);

	/* A private mapping gets its own copy of what it writes. */
	address = map(&self->vcpu, PAGES, READ_WRITE, MAP_PRIVATE, 0);
	ASSERT_TRUE(mapped(address));
	((struct kvm_run *)address)->immediate_exit = 1;
	EXPECT_EQ(0, self->vcpu.run->immediate_exit);
	EXPECT_EQ(0, vcpu_run(&self->vcpu));
}

TEST_F(map, unmap_in_part)
{
	char *address = map(&self->vcpu, PAGES, READ_WRITE, MAP_SHARED, 0);

	ASSERT_TRUE(mapped(address));
	ASSERT_EQ(0, munmap(address + PAGE_SIZE, PAGE_SIZE));
	EXPECT_EQ(0, touch(address, true));
	EXPECT_EQ(SIGSEGV, touch(address + PAGE_SIZE, false));
	EXPECT_EQ(0, touch(address + 2 * PAGE_SIZE, true));
	EXPECT_EQ(0, vcpu_run(&self->vcpu));
}

TEST_F(map, move)
{
	size_t size = PAGES * PAGE_SIZE;
	char *address = map(&self->vcpu, PAGES, READ_WRITE, MAP_SHARED, 0);
	char *room = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *grown;

	ASSERT_TRUE(mapped(address));
	ASSERT_TRUE(mapped(room));
	ASSERT_TRUE(mremap(address, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
	EXPECT_EQ(SIGSEGV, touch(address, false));
	EXPECT_EQ(0, vcpu_run(&self->vcpu));
	EXPECT_EQ(KVM_EXIT_IO, ((struct kvm_run *)room)->exit_reason);

	grown = mremap(room, size, size + PAGE_SIZE, MREMAP_MAYMOVE);
	ASSERT_TRUE(mapped(grown));
	EXPECT_EQ(0, touch(grown, true));
	EXPECT_EQ(SIGBUS, touch(grown + size, false));
}

/* The mapping outlives the descriptors, and the VM. */
TEST_F(map, after_close)
{
	struct kvm_run *run = map(&self->vcpu, PAGES, READ_WRITE, MAP_SHARED, 0);

	ASSERT_TRUE(mapped(run));
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(0, close(self->vcpu.fd));
	ASSERT_EQ(0, close(self->vm.fd));
	ASSERT_EQ(0, close(self->vm.device));
	EXPECT_EQ(KVM_EXIT_IO, run->exit_reason);
	EXPECT_EQ(0, touch((char *)run + PAGE_SIZE, true));
	EXPECT_EQ(0x1234, *(uint16_t *)((char *)run + PAGE_SIZE));
	EXPECT_EQ(0, touch((char *)run + 2 * PAGE_SIZE, true));
	/* For the teardown. */
	self->vcpu.fd = self->vm.fd = self->vm.device = -1;
}

/* A child sees the mapping, too. */
TEST_F(map, fork)
{
	int status;
	pid_t child;

	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	child = fork();
	if (!child) {
		bool seen = self->vcpu.run->exit_reason == KVM_EXIT_IO;

		self->vcpu.run->immediate_exit = 1;
		_exit(seen ? 0 : 1);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(-EINTR, vcpu_run(&self->vcpu));
}

TEST_F(map, only_vcpus)
{
	EXPECT_FALSE(mapped(mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, self->vm.fd, 0)));
	EXPECT_EQ(ENODEV, errno);
	EXPECT_FALSE(mapped(mmap(NULL, PAGE_SIZE, PROT_READ, MAP_SHARED, self->vm.device, 0)));
	EXPECT_EQ(ENODEV, errno);
}

/* What /proc/self/maps says of the mapping. */
TEST_F(map, name)
{
	char line[256], start[32];
	bool found = false;
	FILE *maps = fopen("/proc/self/maps", "re");

	ASSERT_TRUE(!!maps);
	snprintf(start, sizeof(start), "%08lx-", (unsigned long)self->vcpu.run);
	while (!found && fgets(line, sizeof(line), maps))
		found = !strncmp(line, start, strlen(start));
	fclose(maps);
	ASSERT_TRUE(found);
	EXPECT_TRUE(!!strstr(line, " rw-s 00000000 "))
		TH_LOG("%s", line);
	EXPECT_TRUE(!!strstr(line, " anon_inode:kvm-vcpu:0"))
		TH_LOG("%s", line);
}

#define RING_BYTES	(PAGE_SIZE * 16)
#define RING_SLOT	1
#define RING_ADDRESS	0x30000
#define RING_PAGES	8

/* Writes to the first word of each of the pages, then to the port. */
GUEST(guest_dirty,
	"	mov	$" STR(RING_ADDRESS) " >> 4, %ax\n"
	"	mov	$" STR(RING_PAGES) ", %cx\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"1:	mov	%ax, %es\n"
	"	movw	$1, %es:0\n"
	"	add	$0x100, %ax\n"
	"	loop	1b\n"
	"	out	%al, %dx\n");

TEST_F(map, dirty_ring)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL, .args = { RING_BYTES } };
	struct kvm_dirty_gfn *ring;
	struct vcpu vcpu;
	struct vm vm;

	vm_open(&vm, variant->device);
	ASSERT_LE(RING_BYTES, ioctl(vm.fd, KVM_CHECK_EXTENSION, cap.cap));
	ASSERT_EQ(0, ioctl(vm.fd, KVM_ENABLE_CAP, &cap));
	vm_add_memory(&vm, RING_SLOT, RING_ADDRESS, RING_PAGES * PAGE_SIZE, KVM_MEM_LOG_DIRTY_PAGES);
	vcpu_open(&vm, &vcpu, 0);

	/* It is there for sharing. */
	EXPECT_FALSE(mapped(map(&vcpu, RING_BYTES / PAGE_SIZE, READ_WRITE, MAP_PRIVATE,
				KVM_DIRTY_LOG_PAGE_OFFSET)));
	EXPECT_EQ(EINVAL, errno);
	ring = map(&vcpu, RING_BYTES / PAGE_SIZE, READ_WRITE, MAP_SHARED, KVM_DIRTY_LOG_PAGE_OFFSET);
	ASSERT_TRUE(mapped(ring));

	for (int round = 0, next = 0; round < 4; round++) {
		vcpu_load(&vm, &vcpu, guest_dirty);
		ASSERT_EQ(0, vcpu_run(&vcpu));
		ASSERT_EQ(KVM_EXIT_IO, vcpu.run->exit_reason);
		for (unsigned int page = 0; page < RING_PAGES; page++, next++) {
			ASSERT_EQ(KVM_DIRTY_GFN_F_DIRTY,
				  __atomic_load_n(&ring[next].flags, __ATOMIC_ACQUIRE));
			ASSERT_EQ(RING_SLOT, ring[next].slot);
			ASSERT_EQ(page, ring[next].offset);
			__atomic_store_n(&ring[next].flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		}
		ASSERT_EQ(0, __atomic_load_n(&ring[next].flags, __ATOMIC_ACQUIRE));
		ASSERT_EQ(RING_PAGES, ioctl(vm.fd, KVM_RESET_DIRTY_RINGS, 0));
	}
	munmap(ring, RING_BYTES);
	vcpu_close(&vcpu);
	vm_close(&vm);
}

TEST_HARNESS_MAIN
