// SPDX-License-Identifier: GPL-2.0
/* KVM_RUN: what makes a guest exit, and what it finds when it goes on. */
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "vm.h"

#define ROUNDS	repeats(2000)
#define VECTOR	0x20
#define NMI	2

FIXTURE(run)
{
	struct vm vm;
	struct vcpu vcpu;
};

ON_BOTH_DEVICES(run);

FIXTURE_SETUP(run)
{
	vm_open(&self->vm, variant->device);
	vcpu_open(&self->vm, &self->vcpu, 0);
}

FIXTURE_TEARDOWN(run)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

#define ASSERT_EXIT(reason)						\
	do {								\
		ASSERT_EQ(0, vcpu_run(&self->vcpu));			\
		ASSERT_EQ(reason, self->vcpu.run->exit_reason);		\
	} while (0)

/* An I/O exit of one access of the given size. */
#define ASSERT_IO(way, bytes)						\
	do {								\
		ASSERT_EXIT(KVM_EXIT_IO);				\
		ASSERT_EQ(way, self->vcpu.run->io.direction);		\
		ASSERT_EQ(bytes, self->vcpu.run->io.size);		\
		ASSERT_EQ(GUEST_PORT, self->vcpu.run->io.port);		\
		ASSERT_EQ(1, self->vcpu.run->io.count);			\
	} while (0)

TEST_F(run, out_in_order)
{
	vcpu_load(&self->vm, &self->vcpu, guest_count_out);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		ASSERT_IO(KVM_EXIT_IO_OUT, 4);
		ASSERT_EQ(i, *(uint32_t *)vcpu_io_data(&self->vcpu));
	}
}

/* Reads from the port, and writes back one more than it has read. */
GUEST(guest_echo,
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"1:	in	%dx, %ax\n"
	"	inc	%ax\n"
	"	out	%ax, %dx\n"
	"	jmp	1b\n");

TEST_F(run, in)
{
	vcpu_load(&self->vm, &self->vcpu, guest_echo);
	for (uint16_t i = 0; i < ROUNDS; i++) {
		uint16_t question = i * 31;

		ASSERT_IO(KVM_EXIT_IO_IN, 2);
		memcpy(vcpu_io_data(&self->vcpu), &question, sizeof(question));
		ASSERT_IO(KVM_EXIT_IO_OUT, 2);
		ASSERT_EQ((uint16_t)(question + 1), *(uint16_t *)vcpu_io_data(&self->vcpu));
	}
}

/* Writes 256 bytes to the port with one instruction. */
GUEST(guest_string_out,
	"	cld\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	mov	$" STR(GUEST_DATA) ", %si\n"
	"	mov	$256, %cx\n"
	"	rep outsb\n"
	"	hlt\n");

TEST_F(run, string_out)
{
	unsigned char *data = self->vm.memory + GUEST_DATA;
	unsigned int seen = 0;

	for (int i = 0; i < 256; i++)
		data[i] = i ^ 0x5a;
	vcpu_load(&self->vm, &self->vcpu, guest_string_out);
	while (seen < 256) {
		struct kvm_run *run = self->vcpu.run;

		ASSERT_EXIT(KVM_EXIT_IO);
		ASSERT_EQ(1, run->io.size);
		ASSERT_LE(seen + run->io.count, 256);
		ASSERT_EQ(0, memcmp(data + seen, vcpu_io_data(&self->vcpu), run->io.count));
		seen += run->io.count;
	}
	ASSERT_EXIT(KVM_EXIT_HLT);
}

/* Copies the word at the start of the hole in memory to its second word. */
GUEST(guest_mmio,
	"1:	mov	%es:0, %eax\n"
	"	mov	%eax, %es:4\n"
	"	jmp	1b\n");

TEST_F(run, mmio)
{
	struct kvm_run *run = self->vcpu.run;

	vcpu_load(&self->vm, &self->vcpu, guest_mmio);
	for (uint32_t i = 0; i < 100; i++) {
		uint32_t value = i * 0x01010101;

		ASSERT_EXIT(KVM_EXIT_MMIO);
		ASSERT_EQ(0, run->mmio.is_write);
		ASSERT_EQ(GUEST_MMIO, run->mmio.phys_addr);
		ASSERT_EQ(4, run->mmio.len);
		memcpy(run->mmio.data, &value, sizeof(value));
		ASSERT_EXIT(KVM_EXIT_MMIO);
		ASSERT_EQ(1, run->mmio.is_write);
		ASSERT_EQ(GUEST_MMIO + 4, run->mmio.phys_addr);
		ASSERT_EQ(0, memcmp(run->mmio.data, &value, sizeof(value)));
	}
}

/* Halts, and says so when it goes on. */
GUEST(guest_halt_and_out,
	"1:	hlt\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	out	%al, %dx\n"
	"	jmp	1b\n");

/* Without an interrupt controller in the kernel, HLT is the VMM's business. */
TEST_F(run, halt)
{
	vcpu_load(&self->vm, &self->vcpu, guest_halt_and_out);
	for (int i = 0; i < 100; i++) {
		ASSERT_EXIT(KVM_EXIT_HLT);
		ASSERT_IO(KVM_EXIT_IO_OUT, 1);
	}
}

/* Causes a triple fault: there is no room for a vector in an IDT of no bytes. */
GUEST(guest_triple_fault,
	"	lidt	1f - guest_triple_fault + " STR(GUEST_CODE) "\n"
	"	int3\n"
	"1:	.word	0, 0, 0\n");

TEST_F(run, shutdown)
{
	vcpu_load(&self->vm, &self->vcpu, guest_triple_fault);
	ASSERT_EXIT(KVM_EXIT_SHUTDOWN);
}

/* Jumps to where there is no memory: KVM cannot fetch an instruction there. */
GUEST(guest_run_away,
	"	ljmp	$" STR(GUEST_MMIO) " >> 4, $0\n");

TEST_F(run, internal_error)
{
	vcpu_load(&self->vm, &self->vcpu, guest_run_away);
	ASSERT_EXIT(KVM_EXIT_INTERNAL_ERROR);
	ASSERT_EQ(KVM_INTERNAL_ERROR_EMULATION, self->vcpu.run->internal.suberror);
}

/* Waits for interrupts; their handler writes to the port. */
GUEST(guest_interrupted,
	"	sti\n"
	"1:	jmp	1b\n");

/* The VMM is the interrupt controller: it waits for the window, and injects. */
TEST_F(run, interrupt)
{
	struct kvm_interrupt interrupt = { .irq = VECTOR };

	vcpu_load(&self->vm, &self->vcpu, guest_interrupted);
	vm_set_handler(&self->vm, VECTOR, guest_handler_out);
	for (int i = 0; i < 100; i++) {
		self->vcpu.run->request_interrupt_window = 1;
		ASSERT_EXIT(KVM_EXIT_IRQ_WINDOW_OPEN);
		ASSERT_EQ(1, self->vcpu.run->ready_for_interrupt_injection);
		self->vcpu.run->request_interrupt_window = 0;
		ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_INTERRUPT, &interrupt));
		ASSERT_IO(KVM_EXIT_IO_OUT, 1);
		ASSERT_EQ(0x77, *(uint8_t *)vcpu_io_data(&self->vcpu));
	}
}

/* KVM finishes the access that it has exited for, and then does not enter the guest. */
TEST_F(run, immediate_exit)
{
	struct kvm_regs before, after;
	uint16_t answer = 0x1234;

	vcpu_load(&self->vm, &self->vcpu, guest_echo);
	self->vcpu.run->immediate_exit = 1;
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_REGS, &before));
	ASSERT_EQ(-EINTR, vcpu_run(&self->vcpu));
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_REGS, &after));
	ASSERT_EQ(0, memcmp(&before, &after, sizeof(after)));

	self->vcpu.run->immediate_exit = 0;
	ASSERT_IO(KVM_EXIT_IO_IN, 2);
	memcpy(vcpu_io_data(&self->vcpu), &answer, sizeof(answer));
	self->vcpu.run->immediate_exit = 1;
	for (int i = 0; i < 3; i++)
		ASSERT_EQ(-EINTR, vcpu_run(&self->vcpu));
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_GET_REGS, &after));
	ASSERT_EQ(answer, after.rax & 0xffff);

	self->vcpu.run->immediate_exit = 0;
	ASSERT_IO(KVM_EXIT_IO_OUT, 2);
	ASSERT_EQ(answer + 1, *(uint16_t *)vcpu_io_data(&self->vcpu));
}

TEST_F(run, argument_must_be_zero)
{
	vcpu_load(&self->vm, &self->vcpu, guest_count_out);
	ASSERT_EQ(-1, ioctl(self->vcpu.fd, KVM_RUN, 1));
	ASSERT_EQ(EINVAL, errno);
	ASSERT_IO(KVM_EXIT_IO_OUT, 4);
}

/* A vCPU belongs to no thread: each of the two takes its turns. */
static void *run_once(void *argument)
{
	return (void *)(intptr_t)vcpu_run(argument);
}

TEST_F(run, second_thread)
{
	vcpu_load(&self->vm, &self->vcpu, guest_count_out);
	for (uint32_t i = 0; i < 50; i++) {
		if (i % 2) {
			pthread_t thread;
			void *result;

			ASSERT_EQ(0, pthread_create(&thread, NULL, run_once, &self->vcpu));
			ASSERT_EQ(0, pthread_join(thread, &result));
			ASSERT_EQ(0, (intptr_t)result);
			ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);
		} else {
			ASSERT_IO(KVM_EXIT_IO_OUT, 4);
		}
		ASSERT_EQ(i, *(uint32_t *)vcpu_io_data(&self->vcpu));
	}
}

/* A VM belongs to a process. Another may hold its descriptors, and do nothing with them. */
TEST_F(run, forked_child)
{
	struct kvm_regs regs;
	int status;
	pid_t child;

	vcpu_load(&self->vm, &self->vcpu, guest_count_out);
	child = fork();
	if (!child) {
		bool good = vcpu_run(&self->vcpu) == -EIO &&
			    ioctl(self->vcpu.fd, KVM_GET_REGS, &regs) && errno == EIO &&
			    ioctl(self->vcpu.fd, KVM_GET_STATS_FD, 0) && errno == EIO &&
			    ioctl(self->vm.fd, KVM_CREATE_VCPU, 1) && errno == EIO &&
			    ioctl(self->vm.fd, KVM_CHECK_EXTENSION, 0) && errno == EIO &&
			    ioctl(self->vm.device, KVM_GET_API_VERSION, 0) == KVM_API_VERSION;

		_exit(good ? 0 : 1);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_EQ(0, status);
	ASSERT_IO(KVM_EXIT_IO_OUT, 4);
}

/* With an interrupt controller in the kernel: KVM_RUN sleeps until an NMI ends the guest's halt. */
FIXTURE(halted)
{
	struct vm vm;
	struct vcpu vcpu;
	pthread_t thread;
	volatile pid_t tid;
};

ON_BOTH_DEVICES(halted);

FIXTURE_SETUP(halted)
{
	vm_open(&self->vm, variant->device);
	vm_create_irqchip(&self->vm);
	vcpu_open(&self->vm, &self->vcpu, 0);
	vcpu_load(&self->vm, &self->vcpu, guest_halt);
	vcpu_enable_lapic(&self->vcpu);
	vm_set_handler(&self->vm, NMI, guest_handler_out);
}

FIXTURE_TEARDOWN(halted)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

static void *run_halted(void *argument)
{
	FIXTURE_DATA(halted) *self = argument;

	self->tid = syscall(SYS_gettid);
	return (void *)(intptr_t)vcpu_run(&self->vcpu);
}

TEST_F(halted, nmi_wakes)
{
	struct kvm_msi nmi = { .address_lo = 0xfee00000, .data = 4 << 8 };

	for (int i = 0; i < 20; i++) {
		void *result;

		self->tid = 0;
		ASSERT_EQ(0, pthread_create(&self->thread, NULL, run_halted, self));
		ASSERT_TRUE(eventually(self->tid && thread_state(self->tid) == 'S'))
			TH_LOG("the halted vCPU does not sleep");
		ASSERT_EQ(1, ioctl(self->vm.fd, KVM_SIGNAL_MSI, &nmi));
		ASSERT_EQ(0, pthread_join(self->thread, &result));
		ASSERT_EQ(0, (intptr_t)result);
		ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);
	}
}

TEST_HARNESS_MAIN
