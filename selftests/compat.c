// SPDX-License-Identifier: GPL-2.0
/*
 * A 32-bit VMM. KVM's structs with pointers have another layout there; the
 * unused half of each is poisoned, so that it shows if they are read as those
 * of 64 bits.
 */
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "harness.h"
#include "vm.h"

#define SLOT		1
#define ADDRESS		0x30000
#define SLOT_PAGES	40
#define DIRTY_PAGE	33

_Static_assert(sizeof(void *) == 4, "this is for 32-bit programs");

/* Writes to one page of the slot, then to the port. */
GUEST(guest_dirty,
	"	mov	$(" STR(ADDRESS) " + " STR(DIRTY_PAGE) " * 0x1000) >> 4, %ax\n"
	"	mov	%ax, %es\n"
	"	movw	$1, %es:0\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	out	%al, %dx\n");

FIXTURE(compat)
{
	struct vm vm;
	struct vcpu vcpu;
	unsigned char *memory;
};

ON_BOTH_DEVICES(compat);

FIXTURE_SETUP(compat)
{
	vm_open(&self->vm, variant->device);
	vcpu_open(&self->vm, &self->vcpu, 0);
	vcpu_load(&self->vm, &self->vcpu, guest_dirty);
}

FIXTURE_TEARDOWN(compat)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

/* A pointer whose upper half is no part of it. */
static uint64_t poisoned(const void *pointer)
{
	return 0xdeadbeefULL << 32 | (uintptr_t)pointer;
}

static void dirty(struct vm *vm, struct vcpu *vcpu)
{
	vm_add_memory(vm, SLOT, ADDRESS, SLOT_PAGES * PAGE_SIZE, KVM_MEM_LOG_DIRTY_PAGES);
	if (vcpu_run(vcpu) || vcpu->run->exit_reason != KVM_EXIT_IO)
		die("the guest does not run");
}

TEST_F(compat, get_dirty_log)
{
	uint8_t bitmap[8];
	struct kvm_dirty_log log = { .slot = SLOT, .padding2 = poisoned(bitmap) };

	dirty(&self->vm, &self->vcpu);
	for (int round = 0; round < 2; round++) {
		memset(bitmap, 0xcc, sizeof(bitmap));
		ASSERT_EQ(0, ioctl(self->vm.fd, KVM_GET_DIRTY_LOG, &log));
		for (unsigned int page = 0; page < SLOT_PAGES; page++)
			EXPECT_EQ(!round && page == DIRTY_PAGE, bitmap[page / 8] >> page % 8 & 1);
	}
}

TEST_F(compat, clear_dirty_log)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { 1 } };
	uint8_t bitmap[8];
	struct kvm_dirty_log log = { .slot = SLOT, .padding2 = poisoned(bitmap) };
	struct kvm_clear_dirty_log clear = {
		.slot = SLOT,
		.num_pages = SLOT_PAGES,
		.padding2 = poisoned(bitmap),
	};

	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_ENABLE_CAP, &cap));
	dirty(&self->vm, &self->vcpu);
	for (int round = 0; round < 3; round++) {
		memset(bitmap, 0xcc, sizeof(bitmap));
		ASSERT_EQ(0, ioctl(self->vm.fd, KVM_GET_DIRTY_LOG, &log));
		/* It is dirty until it is cleared, which the second round does. */
		for (unsigned int page = 0; page < SLOT_PAGES; page++)
			EXPECT_EQ(round < 2 && page == DIRTY_PAGE, bitmap[page / 8] >> page % 8 & 1);
		if (round == 1)
			ASSERT_EQ(0, ioctl(self->vm.fd, KVM_CLEAR_DIRTY_LOG, &clear));
	}
}

/* The number of this call has another size in it than that of a 64-bit VMM. */
TEST_F(compat, msr_filter)
{
	uint8_t bitmap[PAGE_SIZE] = {};
	struct kvm_msr_filter filter = {
		.flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
		.ranges[0] = {
			.flags = KVM_MSR_FILTER_READ,
			.base = 0x10,
			.nmsrs = 8,
			.bitmap = bitmap,
		},
	};

	EXPECT_EQ(0, ioctl(self->vm.fd, KVM_X86_SET_MSR_FILTER, &filter));
	EXPECT_EQ(-1, ioctl(self->vm.fd, _IOC(_IOC_WRITE, KVMIO, 0xc6, sizeof(filter) + 4), &filter));
}

TEST_F(compat, signal_mask)
{
	struct {
		struct kvm_signal_mask header;
		unsigned char set[8];
	} mask = { .header.len = 8 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMAX);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, NULL));
	ASSERT_EQ(0, raise(SIGRTMAX));
	dirty(&self->vm, &self->vcpu);
	/* Nothing is blocked any more in KVM_RUN. */
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_SIGNAL_MASK, &mask));
	EXPECT_EQ(-EINTR, vcpu_run(&self->vcpu));
	/* The signal's bit is in the upper word of the set. */
	mask.header.sigset[(SIGRTMAX - 1) / 8] = 1 << (SIGRTMAX - 1) % 8;
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_SIGNAL_MASK, &mask));
	vcpu_load(&self->vm, &self->vcpu, guest_dirty);
	EXPECT_EQ(0, vcpu_run(&self->vcpu));
}

TEST_HARNESS_MAIN
