// SPDX-License-Identifier: GPL-2.0
/* Guests that do what they should not: they must harm neither the host nor another VM. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "harness.h"
#include "posting.h"

#define VCPUS	2
/* Exits that the other VM makes meanwhile. */
#define ROUNDS	repeats(3000)

#define REGISTER_AT(address)							\
	"	mov	$" STR(PVIRQ_PORT_BASE) "+" STR(PVIRQ_REG_ADDRESS_LOW) ", %dx\n"	\
	"	mov	$" STR(address) ", %eax\n"				\
	"	out	%eax, %dx\n"						\
	"	mov	$" STR(PVIRQ_PORT_BASE) "+" STR(PVIRQ_REG_COUNT) ", %dx\n"	\
	"	mov	$" STR(VCPUS) ", %eax\n"				\
	"	out	%eax, %dx\n"						\
	"	mov	$" STR(PVIRQ_PORT_BASE) "+" STR(PVIRQ_REG_COMMAND) ", %dx\n"	\
	"	mov	$(" STR(PVIRQ_VERSION) "<<16)+" STR(PVIRQ_COMMAND_REGISTER) ", %eax\n"	\
	"	out	%eax, %dx\n"

/* Registers good and bad addresses, and un-registers, without end. */
GUEST(guest_register_without_end,
	"1:\n"
	REGISTER_AT(DESCRIPTORS)
	REGISTER_AT(DESCRIPTORS + 0x400)
	REGISTER_AT(GUEST_MMIO)
	REGISTER_AT(DESCRIPTORS + 4)
	"	mov	$" STR(PVIRQ_COMMAND_UNREGISTER) ", %eax\n"
	"	out	%eax, %dx\n"
	"	incl	" STR(GUEST_DATA) "\n"
	"	jmp	1b\n");

/* Writes rubbish over all descriptors, without end: states, counters, and pending bits. */
GUEST(guest_scribble_without_end,
	"	sti\n"
	"1:	mov	$" STR(DESCRIPTORS) ", %di\n"
	"	mov	$0x200, %cx\n"
	"2:	imul	$0x9e3779b1, %eax, %eax\n"
	"	inc	%eax\n"
	"	mov	%eax, (%di)\n"
	"	add	$4, %di\n"
	"	loop	2b\n"
	"	incl	" STR(GUEST_DATA) "+4\n"
	"	jmp	1b\n");

GUEST(guest_handler_ignore,
	"	iret\n");

FIXTURE(hostile)
{
	struct vm vm;
	struct vcpu vcpus[VCPUS];
	pthread_t threads[VCPUS];
	int references;
	long pinned;
};

/* Pages that the kernel has pinned and not released, of all processes. */
static long pages_pinned(void)
{
	/* CPUs keep what they have counted to themselves for a while, unless one asks. */
	FILE *refresh = fopen("/proc/sys/vm/stat_refresh", "w");
	long value, pinned = 0;
	char name[64];
	FILE *vmstat;

	if (!refresh || fputs("1", refresh) < 0 || fclose(refresh))
		die("/proc/sys/vm/stat_refresh");
	vmstat = fopen("/proc/vmstat", "r");
	if (!vmstat)
		die("/proc/vmstat");
	while (fscanf(vmstat, "%63s %ld", name, &value) == 2) {
		if (!strcmp(name, "nr_foll_pin_acquired"))
			pinned += value;
		if (!strcmp(name, "nr_foll_pin_released"))
			pinned -= value;
	}
	fclose(vmstat);
	return pinned;
}

FIXTURE_SETUP(hostile)
{
	self->references = file_references();
	self->pinned = pages_pinned();
	vm_open(&self->vm, PVIRQ_DEVICE);
	vm_create_irqchip(&self->vm);
	for (int i = 0; i < VCPUS; i++) {
		vcpu_open(&self->vm, &self->vcpus[i], i);
		vcpu_reset(&self->vcpus[i]);
		vcpu_enable_lapic(&self->vcpus[i]);
	}
	for (int vector = PVIRQ_FIRST_VECTOR; vector < 256; vector++)
		vm_set_handler(&self->vm, vector, guest_handler_ignore);
}

FIXTURE_TEARDOWN(hostile)
{
	for (int i = 0; i < VCPUS; i++)
		vcpu_close(&self->vcpus[i]);
	vm_close(&self->vm);
	EXPECT_FILES(self->references);
	/* What others had pinned before may be gone. */
	EXPECT_TRUE(eventually(pages_pinned() <= self->pinned))
		TH_LOG("%ld pages are pinned, not %ld", pages_pinned(), self->pinned);
}

static volatile bool stop;

static void nothing(int signal)
{
}

static void *run(void *data)
{
	int result;

	while (!(result = vcpu_run(data)) || (result == -EINTR && !stop))
		if (!result)
			die("the guest has left: exit %u", ((struct vcpu *)data)->run->exit_reason);
	return (void *)(long)result;
}

static void start(FIXTURE_DATA(hostile) *self, int index, uint16_t address)
{
	struct kvm_regs regs = { .rip = address, .rsp = GUEST_STACK - 0x200 * index, .rflags = 2 };
	struct kvm_mp_state runnable = { KVM_MP_STATE_RUNNABLE };

	if (ioctl(self->vcpus[index].fd, KVM_SET_REGS, &regs))
		die("KVM_SET_REGS");
	if (ioctl(self->vcpus[index].fd, KVM_SET_MP_STATE, &runnable))
		die("KVM_SET_MP_STATE");
	if (pthread_create(&self->threads[index], NULL, run, &self->vcpus[index]))
		die("pthread_create");
}

static volatile uint32_t *counters(struct vm *vm)
{
	return (uint32_t *)(vm->memory + GUEST_DATA);
}

TEST_F(hostile, registers_and_scribbles)
{
	struct sigaction action = { .sa_handler = nothing };
	uint32_t registrations, scribbles;
	long locked, most = 0;
	struct vcpu other;
	struct vm vm;

	sigaction(SIGUSR1, &action, NULL);
	stop = false;
	vm_write(&self->vm, GUEST_CODE, guest_register_without_end,
		 guest_register_without_end_end - guest_register_without_end);
	vm_write(&self->vm, GUEST_CODE + 0x400, guest_scribble_without_end,
		 guest_scribble_without_end_end - guest_scribble_without_end);
	start(self, 0, GUEST_CODE);
	start(self, 1, GUEST_CODE + 0x400);

	/* Another VM goes on as if nothing were. */
	vm_open(&vm, PVIRQ_DEVICE);
	vcpu_open(&vm, &other, 0);
	vcpu_load(&vm, &other, guest_count_out);
	for (int i = 0; i < ROUNDS; i++) {
		ASSERT_EQ(0, vcpu_run(&other));
		ASSERT_EQ(i, *(uint32_t *)vcpu_io_data(&other));
		locked = proc_value("VmLck");
		most = locked > most ? locked : most;
	}
	vcpu_close(&other);
	vm_close(&vm);

	EXPECT_TRUE(eventually(counters(&self->vm)[0] > 10 && counters(&self->vm)[1] > 10));
	registrations = counters(&self->vm)[0];
	scribbles = counters(&self->vm)[1];
	stop = true;
	for (int i = 0; i < VCPUS; i++) {
		void *result = NULL;

		while (pthread_tryjoin_np(self->threads[i], &result)) {
			pthread_kill(self->threads[i], SIGUSR1);
			usleep(1000);
		}
		EXPECT_EQ(-EINTR, (long)result);
	}
	/* The registration in force, and the one that takes its place: a page each. */
	EXPECT_LE(most, 2 * PAGE_SIZE / 1024);
	TH_LOG("%u rounds of registrations, %u of scribbles, %ld kB locked at most", registrations, scribbles, most);
}

TEST_HARNESS_MAIN
