// SPDX-License-Identifier: GPL-2.0
/* When a registration ends without the guest's doing: what its VMM does to the descriptors' memory, and to vCPUs. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "posting.h"

#define MORE_MEMORY	0x40000

FIXTURE(ending)
{
	struct vm vm;
	struct vcpu vcpu;
	struct runner runner;
};

FIXTURE_SETUP(ending)
{
	posting_open(&self->vm, &self->vcpu);
}

FIXTURE_TEARDOWN(ending)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

#define REGISTER(address)	guest_register(&self->vm, &self->vcpu, address, 1)

#define EXPECT_REGISTERED()							\
	EXPECT_TRUE(is_registered(&self->vm))					\
		TH_LOG("ended for reason %u", registration_of(&self->vm).ended)

#define EXPECT_ENDED(reason)							\
	do {									\
		EXPECT_FALSE(is_registered(&self->vm));				\
		EXPECT_EQ(reason, registration_of(&self->vm).ended);		\
	} while (0)

static int try_region(struct vm *vm, unsigned int slot, uint64_t address, void *memory, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .flags = flags, .guest_phys_addr = address, .memory_size = PAGE_SIZE,
		.userspace_addr = (uintptr_t)memory,
	};

	return ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region) ? errno : 0;
}

/* What the host writes to its pages is in no log, so none may be written while there is one. */
TEST_F(ending, dirty_logging)
{
	unsigned char *other = vm_add_memory(&self->vm, 2, MORE_MEMORY + PAGE_SIZE, PAGE_SIZE, 0);
	unsigned char *memory = vm_add_memory(&self->vm, 1, MORE_MEMORY, PAGE_SIZE, 0);
	volatile struct pvirq_descriptor *there = (void *)memory;

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(MORE_MEMORY));
	/* Another slot's. */
	ASSERT_EQ(0, try_region(&self->vm, 2, MORE_MEMORY + PAGE_SIZE, other, KVM_MEM_LOG_DIRTY_PAGES));
	EXPECT_REGISTERED();
	GO_OUTSIDE();
	post(there, VECTOR);
	ASSERT_EQ(0, try_region(&self->vm, 1, MORE_MEMORY, memory, KVM_MEM_LOG_DIRTY_PAGES));
	EXPECT_ENDED(PVIRQ_ENDED_DIRTY_LOGGING);
	EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(there));
	EXPECT_HANDLED(0x77);
	EXPECT_EQ(PVIRQ_STATUS_DIRTY_LOGGING, REGISTER(MORE_MEMORY));
	/* Where nothing is logged, it goes on. */
	EXPECT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS));
	ASSERT_EQ(0, try_region(&self->vm, 1, MORE_MEMORY, memory, 0));
	EXPECT_EQ(PVIRQ_STATUS_OK, REGISTER(MORE_MEMORY));
}

/* The end comes before KVM is called: even for a call that it refuses. */
TEST_F(ending, before_dirty_logging)
{
	unsigned char *memory = vm_add_memory(&self->vm, 1, MORE_MEMORY, PAGE_SIZE, 0);

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(MORE_MEMORY));
	ASSERT_EQ(EINVAL, try_region(&self->vm, 1, MORE_MEMORY, memory + PAGE_SIZE / 2, KVM_MEM_LOG_DIRTY_PAGES));
	EXPECT_ENDED(PVIRQ_ENDED_DIRTY_LOGGING);
	EXPECT_EQ(PVIRQ_STATUS_OK, REGISTER(MORE_MEMORY));
}

TEST_F(ending, dirty_logging_by_the_second_call)
{
	unsigned char *memory = vm_add_memory(&self->vm, 1, MORE_MEMORY, PAGE_SIZE, 0);
	struct kvm_userspace_memory_region2 region = {
		.slot = 1, .flags = KVM_MEM_LOG_DIRTY_PAGES, .guest_phys_addr = MORE_MEMORY, .memory_size = PAGE_SIZE,
		.userspace_addr = (uintptr_t)memory,
	};

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(MORE_MEMORY));
	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_SET_USER_MEMORY_REGION2, &region));
	EXPECT_ENDED(PVIRQ_ENDED_DIRTY_LOGGING);
	EXPECT_EQ(PVIRQ_STATUS_DIRTY_LOGGING, REGISTER(MORE_MEMORY));
}

/* KVM refuses what another process asks for. */
TEST_F(ending, not_by_another_process)
{
	unsigned char *memory = vm_add_memory(&self->vm, 1, MORE_MEMORY, PAGE_SIZE, 0);
	struct kvm_lapic_state lapic;
	struct kvm_sregs sregs;
	int status;
	pid_t pid;

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(MORE_MEMORY));
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_LAPIC, &lapic));
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_SREGS, &sregs));
	vcpu_set_privilege(&self->vcpu, 0);
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (try_region(&self->vm, 1, MORE_MEMORY, memory, KVM_MEM_LOG_DIRTY_PAGES) != EIO)
			_exit(1);
		if (!ioctl(self->vcpu.fd, KVM_SET_LAPIC, &lapic) || errno != EIO)
			_exit(2);
		if (!ioctl(self->vcpu.fd, KVM_SET_SREGS, &sregs) || errno != EIO)
			_exit(3);
		_exit(!ioctl(self->vcpu.fd, KVM_GET_LAPIC, &lapic) || errno != EIO);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_REGISTERED();
}

/* Memory that the VMM, and so the host, may not be able to read. */
TEST_F(ending, guest_memfd)
{
	struct kvm_create_guest_memfd create = { .size = PAGE_SIZE };
	struct kvm_userspace_memory_region2 region = {
		.slot = 1, .flags = KVM_MEM_GUEST_MEMFD, .guest_phys_addr = MORE_MEMORY, .memory_size = PAGE_SIZE,
	};
	void *memory;
	int fd;

	if (!ioctl(self->vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD))
		SKIP(return, "there is no guest_memfd for this VM");
	create.flags = ioctl(self->vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS);
	fd = ioctl(self->vm.fd, KVM_CREATE_GUEST_MEMFD, &create);
	ASSERT_LE(0, fd);
	memory = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, memory);
	region.userspace_addr = (uintptr_t)memory;
	region.guest_memfd = fd;
	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_SET_USER_MEMORY_REGION2, &region));
	EXPECT_EQ(PVIRQ_STATUS_PRIVATE, REGISTER(MORE_MEMORY));
	EXPECT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS));
	munmap(memory, PAGE_SIZE);
	close(fd);
}

TEST(protected_vms)
{
	struct vcpu vcpu;
	struct vm vm;

	vm.device = device_open(PVIRQ_DEVICE);
	vm.fd = ioctl(vm.device, KVM_CREATE_VM, KVM_X86_SW_PROTECTED_VM);
	if (vm.fd < 0)
		SKIP(return, "KVM makes no protected VMs");
	vm.memory = vm_add_memory(&vm, 0, 0, GUEST_MEMORY, 0);
	vm_create_irqchip(&vm);
	vcpu_open(&vm, &vcpu, 0);
	vcpu_reset(&vcpu);
	EXPECT_EQ(PVIRQ_STATUS_PRIVATE, guest_register(&vm, &vcpu, DESCRIPTORS, 1));
	vcpu_close(&vcpu);
	vm_close(&vm);
}

#define GET(call, argument)	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_##call, argument))
#define SET(call, argument)	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_##call, argument))

/* A vCPU that is plugged: it gets the state of one that has been reset. It has no other yet. */
TEST_F(ending, not_by_a_vcpu_that_is_plugged)
{
	struct kvm_lapic_state lapic;
	struct kvm_sregs sregs;
	struct vcpu vcpu;

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS));
	vcpu_open(&self->vm, &vcpu, 1);
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	ASSERT_EQ(0, sregs.cr0 & 1);
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_GET_LAPIC, &lapic));
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_SET_LAPIC, &lapic));
	EXPECT_REGISTERED();
	/* Nor does it when its VMM changes its mind about the state that it begins in. */
	sregs.cr0 |= 1;
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	sregs.cr0 &= ~1ULL;
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	EXPECT_REGISTERED();
	vcpu_close(&vcpu);
	EXPECT_REGISTERED();
}

/* It waits in KVM_RUN for the message that starts it. A debugger looks at it, and writes back what it has read. */
TEST_F(ending, not_by_a_vcpu_that_waits_to_be_started)
{
	struct kvm_mp_state state;
	struct kvm_sregs sregs;
	struct vcpu vcpu;

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS));
	vcpu_open(&self->vm, &vcpu, 1);
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_GET_MP_STATE, &state));
	ASSERT_EQ(KVM_MP_STATE_UNINITIALIZED, state.mp_state);
	pin(1);
	runner_start(&self->runner, &vcpu);
	ASSERT_TRUE(eventually(vcpu_statistic(&vcpu, "pvirq-runs")));
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_GET_SREGS, &sregs));
	ASSERT_EQ(0, sregs.cr0 & 1);
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_SET_SREGS, &sregs));
	EXPECT_REGISTERED();
	vcpu_close(&vcpu);
}

/* The same for one that runs in protected mode. */
TEST_F(ending, not_by_a_debugger)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS));
	for (int protected = 0; protected < 2; protected++) {
		if (protected)
			vcpu_set_privilege(&self->vcpu, 0);
		GET(SREGS, &sregs);
		ASSERT_EQ(protected, sregs.cr0 & 1);
		GET(REGS, &regs);
		SET(SREGS, &sregs);
		SET(REGS, &regs);
		EXPECT_REGISTERED();
	}
}

TEST_F(ending, by_a_reset)
{
	struct kvm_sregs real, sregs;

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS));
	GET(SREGS, &real);
	vcpu_set_privilege(&self->vcpu, 0);
	GET(SREGS, &sregs);
	EXPECT_REGISTERED();
	SET(SREGS, &real);
	EXPECT_ENDED(PVIRQ_ENDED_STATE_REPLACED);
	/* Now it is in real mode already. */
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS));
	SET(SREGS, &real);
	EXPECT_REGISTERED();
}

/* The second form of the call. */
TEST_F(ending, by_a_reset_by_the_second_call)
{
	struct kvm_sregs2 real;

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS));
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_SREGS2, &real));
	vcpu_set_privilege(&self->vcpu, 0);
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_SREGS2, &real));
	EXPECT_ENDED(PVIRQ_ENDED_STATE_REPLACED);
}

/* Another kernel is started in place, in protected mode: what tells it from a debugger is its local APIC. */
TEST_F(ending, by_another_kernel_in_place)
{
	struct kvm_lapic_state lapic;
	struct kvm_sregs sregs;

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS));
	vcpu_set_privilege(&self->vcpu, 0);
	GET(SREGS, &sregs);
	SET(SREGS, &sregs);
	GET(LAPIC, &lapic);
	EXPECT_REGISTERED();
	SET(LAPIC, &lapic);
	EXPECT_ENDED(PVIRQ_ENDED_STATE_REPLACED);
}

/* Registers an address of which the guest has written no half, or one. */
static uint32_t register_half(struct vm *vm, struct vcpu *vcpu, uint16_t half)
{
	struct access accesses[] = {
		{ PVIRQ_PORT_BASE + PVIRQ_REG_COUNT, true, 1 },
		{ PVIRQ_PORT_BASE + PVIRQ_REG_COMMAND, true, PVIRQ_VERSION << 16 | PVIRQ_COMMAND_REGISTER },
		{ PVIRQ_PORT_BASE + PVIRQ_REG_STATUS, false, 0 },
	};

	if (half) {
		struct access access = {
			PVIRQ_PORT_BASE + half, true, half == PVIRQ_REG_ADDRESS_LOW ? DESCRIPTORS : 0,
		};

		guest_access(vm, vcpu, &access, 1);
	}
	guest_access(vm, vcpu, accesses, 3);
	return accesses[2].value;
}

/* A guest that was saved between its writes goes on where the registers hold nothing of them. */
TEST_F(ending, half_an_address_is_none)
{
	struct kvm_lapic_state lapic;

	EXPECT_EQ(PVIRQ_STATUS_UNALIGNED, register_half(&self->vm, &self->vcpu, 0));
	EXPECT_EQ(PVIRQ_STATUS_NOT_RAM, register_half(&self->vm, &self->vcpu, PVIRQ_REG_ADDRESS_LOW));
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS));
	GET(LAPIC, &lapic);
	SET(LAPIC, &lapic);
	EXPECT_EQ(PVIRQ_STATUS_UNALIGNED, register_half(&self->vm, &self->vcpu, 0));
	EXPECT_EQ(PVIRQ_STATUS_UNALIGNED, register_half(&self->vm, &self->vcpu, PVIRQ_REG_ADDRESS_HIGH));
	EXPECT_FALSE(is_registered(&self->vm));
}

/* One vCPU's thread is in KVM_RUN, and stays there while the state of another one is replaced. */
TEST_F(ending, while_a_vcpu_runs)
{
	volatile struct pvirq_descriptor *there = descriptor(&self->vm, 0);
	struct kvm_regs regs = { .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2 };
	struct kvm_lapic_state lapic;
	struct vcpu vcpu;

	vcpu_open(&self->vm, &vcpu, 1);
	vcpu_reset(&vcpu);
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_SET_MP_STATE, &(struct kvm_mp_state){ KVM_MP_STATE_RUNNABLE }));
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &vcpu, DESCRIPTORS, 2));
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_SET_REGS, &regs));
	guest_read(&self->vm, &self->vcpu, PVIRQ_REG_MAGIC);
	LOAD(guest_sleep);
	pin(1);
	runner_start(&self->runner, &self->vcpu);
	ASSERT_TRUE(eventually(host_state(there) == PVIRQ_HOST_BLOCKED));
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_GET_LAPIC, &lapic));
	ASSERT_EQ(0, ioctl(vcpu.fd, KVM_SET_LAPIC, &lapic));
	EXPECT_ENDED(PVIRQ_ENDED_STATE_REPLACED);
	EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(there));
	EXPECT_TRUE(is_running(&self->runner));
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
	vcpu_close(&vcpu);
}

TEST_HARNESS_MAIN
