// SPDX-License-Identifier: GPL-2.0
/* The guest interface: what a guest reads there, and how it registers its descriptors. */
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "posting.h"

#define VECTOR		0x40
/* Behind the VM's memory, where tests add some. */
#define MORE_MEMORY	0x40000
#define ROUNDS		repeats(500)

FIXTURE(registration)
{
	struct vm vm;
	struct vcpu vcpu;
	int references;
};

FIXTURE_SETUP(registration)
{
	self->references = file_references();
	vm_open(&self->vm, PVIRQ_DEVICE);
	vm_create_irqchip(&self->vm);
	vcpu_open(&self->vm, &self->vcpu, 0);
	vcpu_reset(&self->vcpu);
	vcpu_enable_lapic(&self->vcpu);
}

FIXTURE_TEARDOWN(registration)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
	EXPECT_FILES(self->references);
}

#define READ(offset)			guest_read(&self->vm, &self->vcpu, offset)
#define COMMAND(command)		guest_command(&self->vm, &self->vcpu, command)
#define REGISTER(address, count)	guest_register(&self->vm, &self->vcpu, address, count)

/* Whether the host uses the descriptors at this address. */
#define EXPECT_REGISTERED_AT(_address)						\
	do {									\
		struct pvirq_registration _registration = registration_of(&self->vm);	\
		EXPECT_NE(0, _registration.epoch);				\
		EXPECT_EQ(_address, _registration.address);			\
	} while (0)
#define EXPECT_REGISTERED()	EXPECT_REGISTERED_AT(DESCRIPTORS)

/* The host has said that no vCPU will poll, and has nothing to unregister. */
#define EXPECT_FORGOTTEN()							\
	do {									\
		EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(descriptor(&self->vm, 0)));	\
		EXPECT_EQ(PVIRQ_STATUS_NOT_REGISTERED, COMMAND(PVIRQ_COMMAND_UNREGISTER)); \
	} while (0)

TEST_F(registration, identifies_itself)
{
	EXPECT_EQ(PVIRQ_MAGIC, READ(PVIRQ_REG_MAGIC));
	EXPECT_EQ(PVIRQ_VERSION, READ(PVIRQ_REG_VERSION));
	EXPECT_EQ(PVIRQ_FEATURE_POST | PVIRQ_FEATURE_IDLE | PVIRQ_FEATURE_EPOCH, READ(PVIRQ_REG_FEATURES));
	EXPECT_EQ(255, READ(PVIRQ_REG_MAX_DESCRIPTORS));
	EXPECT_EQ(PVIRQ_STATUS_OK, READ(PVIRQ_REG_STATUS));
	EXPECT_EQ(PVIRQ_ABSENT, READ(PVIRQ_REG_COUNT));
}

TEST_F(registration, between_registers_there_is_nothing)
{
	for (uint16_t offset = 0; offset < PVIRQ_PORT_LEN; offset++)
		if (offset % 4)
			EXPECT_EQ(PVIRQ_ABSENT, READ(offset));
}

/* Reads a byte and a word from the port, and 8 bytes by a string instruction. */
GUEST(guest_small_reads,
	"	mov	$" STR(PVIRQ_PORT_BASE) ", %dx\n"
	"	xor	%eax, %eax\n"
	"	in	%dx, %al\n"
	"	mov	%ax, " STR(GUEST_DATA) "\n"
	"	in	%dx, %ax\n"
	"	mov	%ax, " STR(GUEST_DATA) "+2\n"
	"	push	%es\n"
	"	push	%ds\n"
	"	pop	%es\n"
	"	mov	$" STR(GUEST_DATA) "+4, %di\n"
	"	mov	$2, %cx\n"
	"	cld\n"
	"	rep insl\n"
	"	pop	%es\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	out	%al, %dx\n");

TEST_F(registration, other_sizes_do_nothing)
{
	static const uint16_t expected[] = { 0x00ff, 0xffff, 0xffff, 0xffff, 0xffff, 0xffff };

	vcpu_load(&self->vm, &self->vcpu, guest_small_reads);
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(GUEST_PORT, self->vcpu.run->io.port);
	EXPECT_EQ(0, memcmp(self->vm.memory + GUEST_DATA, expected, sizeof(expected)));
}

TEST_F(registration, ports_around_it_are_the_vmms)
{
	static const uint16_t ports[] = { PVIRQ_PORT_BASE - 4, PVIRQ_PORT_BASE + PVIRQ_PORT_LEN };

	for (int i = 0; i < 2; i++) {
		struct access access[2] = { { .port = ports[i] } };

		vm_write(&self->vm, GUEST_DATA, access, sizeof(access));
		vcpu_load(&self->vm, &self->vcpu, guest_accesses);
		ASSERT_EQ(0, vcpu_run(&self->vcpu));
		EXPECT_EQ(ports[i], self->vcpu.run->io.port);
	}
}

TEST_F(registration, without_pvirq_the_vmm_is_asked)
{
	struct access access[2] = { { .port = PVIRQ_PORT_BASE } };
	struct vcpu vcpu;
	struct vm vm;

	vm_open(&vm, KVM_DEVICE);
	vcpu_open(&vm, &vcpu, 0);
	vm_write(&vm, GUEST_DATA, access, sizeof(access));
	vcpu_load(&vm, &vcpu, guest_accesses);
	ASSERT_EQ(0, vcpu_run(&vcpu));
	EXPECT_EQ(PVIRQ_PORT_BASE, vcpu.run->io.port);
	vcpu_close(&vcpu);
	vm_close(&vm);
}

TEST_F(registration, registers_and_unregisters)
{
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS, 4));
	EXPECT_REGISTERED();
	EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(descriptor(&self->vm, 1)));
	EXPECT_EQ(PVIRQ_STATUS_OK, COMMAND(PVIRQ_COMMAND_UNREGISTER));
	EXPECT_FORGOTTEN();
}

TEST_F(registration, whatever_was_there_means_nothing)
{
	memset((void *)descriptor(&self->vm, 0), PVIRQ_HOST_OUTSIDE, 2 * sizeof(struct pvirq_descriptor));
	descriptor(&self->vm, 1)->host_state = PVIRQ_HOST_OUTSIDE;
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS, 2));
	EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(descriptor(&self->vm, 1)));
	EXPECT_EQ(0, descriptor(&self->vm, 1)->guest_poll_ns);
}

TEST_F(registration, refusals)
{
	vm_add_memory(&self->vm, 1, MORE_MEMORY, PAGE_SIZE, 0);
	vm_add_memory(&self->vm, 2, MORE_MEMORY + PAGE_SIZE, PAGE_SIZE, 0);
	vm_add_memory(&self->vm, 3, MORE_MEMORY + 2 * PAGE_SIZE, PAGE_SIZE, KVM_MEM_READONLY);
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS, 1));

	for (unsigned int offset = 1; offset < sizeof(struct pvirq_descriptor); offset <<= 1)
		EXPECT_EQ(PVIRQ_STATUS_UNALIGNED, REGISTER(DESCRIPTORS + offset, 1));
	EXPECT_EQ(PVIRQ_STATUS_TOO_MANY, REGISTER(DESCRIPTORS, 0));
	EXPECT_EQ(PVIRQ_STATUS_TOO_MANY, REGISTER(DESCRIPTORS, 256));
	EXPECT_EQ(PVIRQ_STATUS_TOO_MANY, REGISTER(DESCRIPTORS, UINT32_MAX));
	EXPECT_EQ(PVIRQ_STATUS_NOT_RAM, REGISTER(GUEST_MMIO, 1));
	EXPECT_EQ(PVIRQ_STATUS_NOT_RAM, REGISTER(0xfee00000, 1));
	EXPECT_EQ(PVIRQ_STATUS_NOT_RAM, REGISTER(1ULL << 52, 1));
	EXPECT_EQ(PVIRQ_STATUS_NOT_RAM, REGISTER(-256ULL, 1));
	EXPECT_EQ(PVIRQ_STATUS_NOT_RAM, REGISTER(-256ULL, 2));
	EXPECT_EQ(PVIRQ_STATUS_CROSSES_SLOT, REGISTER(GUEST_MEMORY - 256, 2));
	EXPECT_EQ(PVIRQ_STATUS_CROSSES_SLOT, REGISTER(MORE_MEMORY + PAGE_SIZE - 256, 2));
	EXPECT_EQ(PVIRQ_STATUS_READ_ONLY, REGISTER(MORE_MEMORY + 2 * PAGE_SIZE, 1));
	EXPECT_EQ(PVIRQ_STATUS_WRONG_VERSION, COMMAND(PVIRQ_COMMAND_REGISTER));
	EXPECT_EQ(PVIRQ_STATUS_WRONG_VERSION, COMMAND(2 << 16 | PVIRQ_COMMAND_REGISTER));
	EXPECT_EQ(PVIRQ_STATUS_UNSUPPORTED, COMMAND(0));
	EXPECT_EQ(PVIRQ_STATUS_UNSUPPORTED, COMMAND(PVIRQ_COMMAND_IDLE + 1));
	EXPECT_EQ(PVIRQ_STATUS_UNSUPPORTED, COMMAND(1 << 16 | PVIRQ_COMMAND_UNREGISTER));
	EXPECT_EQ(PVIRQ_STATUS_UNSUPPORTED, READ(PVIRQ_REG_STATUS));

	/* None of it has changed anything. */
	EXPECT_REGISTERED();
	EXPECT_EQ(PVIRQ_STATUS_OK, REGISTER(MORE_MEMORY, 16));
}

TEST_F(registration, no_local_apic)
{
	struct vcpu vcpu;
	struct vm vm;

	vm_open(&vm, PVIRQ_DEVICE);
	vcpu_open(&vm, &vcpu, 0);
	vcpu_reset(&vcpu);
	EXPECT_EQ(PVIRQ_STATUS_NO_LAPIC, guest_register(&vm, &vcpu, DESCRIPTORS, 1));
	vcpu_close(&vcpu);
	vm_close(&vm);
}

TEST_F(registration, split_irqchip_and_long_ids)
{
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };
	struct kvm_enable_cap ids = { .cap = KVM_CAP_X2APIC_API, .args = { KVM_X2APIC_API_USE_32BIT_IDS } };
	struct kvm_enable_cap quirk = { .cap = KVM_CAP_X2APIC_API, .args = { KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK } };
	struct vcpu vcpu;
	struct vm vm;

	vm_open(&vm, PVIRQ_DEVICE);
	ASSERT_EQ(0, ioctl(vm.fd, KVM_ENABLE_CAP, &split));
	ASSERT_EQ(0, ioctl(vm.fd, KVM_ENABLE_CAP, &ids));
	vcpu_open(&vm, &vcpu, 0);
	vcpu_reset(&vcpu);
	vm_add_memory(&vm, 1, MORE_MEMORY, 512 * sizeof(struct pvirq_descriptor), 0);
	/* With the quirk, a message to the ID 255 goes to all. */
	EXPECT_EQ(255, guest_read(&vm, &vcpu, PVIRQ_REG_MAX_DESCRIPTORS));
	EXPECT_EQ(PVIRQ_STATUS_TOO_MANY, guest_register(&vm, &vcpu, MORE_MEMORY, 256));
	ASSERT_EQ(0, ioctl(vm.fd, KVM_ENABLE_CAP, &quirk));
	EXPECT_EQ(4096, guest_read(&vm, &vcpu, PVIRQ_REG_MAX_DESCRIPTORS));
	EXPECT_EQ(PVIRQ_STATUS_OK, guest_register(&vm, &vcpu, MORE_MEMORY, 512));
	vcpu_close(&vcpu);
	vm_close(&vm);
}

TEST_F(registration, another_replaces_it)
{
	const uint64_t second = DESCRIPTORS + 4 * sizeof(struct pvirq_descriptor);

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS, 1));
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS, 1));
	EXPECT_REGISTERED();
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(second, 1));
	EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(descriptor(&self->vm, 0)));
	EXPECT_REGISTERED_AT(second);
	EXPECT_EQ(PVIRQ_ENDED_REPLACED, registration_of(&self->vm).ended);
}

TEST_F(registration, ends_with_a_reset)
{
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS, 1));
	vcpu_restart(&self->vcpu);
	EXPECT_FORGOTTEN();
}

TEST_F(registration, ends_with_its_memory)
{
	unsigned char *memory = vm_add_memory(&self->vm, 1, MORE_MEMORY, PAGE_SIZE, 0);
	volatile struct pvirq_descriptor *there = (void *)memory;

	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(MORE_MEMORY, 1));
	/* Changes that leave the descriptors where they are. */
	vm_map_memory(&self->vm, 1, MORE_MEMORY, memory, PAGE_SIZE, 0);
	vm_add_memory(&self->vm, 2, MORE_MEMORY + PAGE_SIZE, PAGE_SIZE, 0);
	EXPECT_REGISTERED_AT(MORE_MEMORY);
	/* The slot goes. */
	vm_map_memory(&self->vm, 1, MORE_MEMORY, memory, 0, 0);
	EXPECT_EQ(PVIRQ_HOST_RUNNING, host_state(there));
	EXPECT_FORGOTTEN();
	EXPECT_EQ(PVIRQ_STATUS_NOT_RAM, REGISTER(MORE_MEMORY, 1));
	vm_map_memory(&self->vm, 1, MORE_MEMORY, memory, PAGE_SIZE, 0);
	EXPECT_EQ(PVIRQ_STATUS_OK, REGISTER(MORE_MEMORY, 1));
}

TEST_F(registration, ends_with_the_vms_file)
{
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS, 1));
	close(self->vm.fd);
	EXPECT_FORGOTTEN();
	EXPECT_EQ(PVIRQ_STATUS_NO_MEMORY, REGISTER(DESCRIPTORS, 1));
	self->vm.fd = -1;
}

/* What was posted while the host still used the descriptors is delivered, though it does not any more. */
TEST_F(registration, ends_without_a_loss)
{
	unsigned char *memory = vm_add_memory(&self->vm, 1, MORE_MEMORY, PAGE_SIZE, 0);
	volatile struct pvirq_descriptor *there = (void *)memory;

	vm_set_handler(&self->vm, VECTOR, guest_handler_out);
	ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(MORE_MEMORY, 1));
	post(there, VECTOR);
	vm_map_memory(&self->vm, 1, MORE_MEMORY, memory, 0, 0);
	EXPECT_FALSE(is_pending(there, VECTOR));

	vm_write(&self->vm, GUEST_CODE, "\xfb\xf4", 2);	/* sti; hlt */
	struct kvm_regs regs = { .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2 };
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_REGS, &regs));
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	EXPECT_EQ(0x77, *(uint8_t *)vcpu_io_data(&self->vcpu));
}

TEST_F(registration, memory_that_may_not_be_locked)
{
	struct rlimit none = {};
	pid_t child = fork();
	int status;

	if (!child) {
		struct vcpu vcpu;
		struct vm vm;

		vm_open(&vm, PVIRQ_DEVICE);
		vm_create_irqchip(&vm);
		vcpu_open(&vm, &vcpu, 0);
		vcpu_reset(&vcpu);
		if (setrlimit(RLIMIT_MEMLOCK, &none) || setuid(1000))
			_exit(1);
		_exit(guest_register(&vm, &vcpu, DESCRIPTORS, 1) != PVIRQ_STATUS_NO_MEMORY);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
}

/* What is registered is locked, and nothing that was. */
TEST_F(registration, over_and_over)
{
	for (int i = 0; i < ROUNDS; i++) {
		int count = 1 + i % 64;
		long pages = (count * sizeof(struct pvirq_descriptor) + PAGE_SIZE - 1) / PAGE_SIZE;

		ASSERT_EQ(PVIRQ_STATUS_OK, REGISTER(DESCRIPTORS, count));
		ASSERT_EQ(pages * PAGE_SIZE / 1024, proc_value("VmLck"));
	}
	ASSERT_EQ(PVIRQ_STATUS_OK, COMMAND(PVIRQ_COMMAND_UNREGISTER));
	EXPECT_EQ(0, proc_value("VmLck"));
}

TEST_HARNESS_MAIN
