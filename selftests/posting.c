// SPDX-License-Identifier: GPL-2.0
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "posting.h"

/* arch/x86/include/asm/hyperv-tlfs.h */
#define HV_X64_MSR_EOI	0x40000070

GUEST(guest_accesses,
	"0:	mov	$" STR(GUEST_DATA) ", %si\n"
	"1:	mov	(%si), %dx\n"
	"	test	%dx, %dx\n"
	"	jz	4f\n"
	"	mov	4(%si), %eax\n"
	"	cmpw	$0, 2(%si)\n"
	"	je	2f\n"
	"	out	%eax, %dx\n"
	"	jmp	3f\n"
	"2:	in	%dx, %eax\n"
	"	mov	%eax, 4(%si)\n"
	"3:	add	$8, %si\n"
	"	jmp	1b\n"
	"4:	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	out	%al, %dx\n"
	"	jmp	0b\n");

GUEST(guest_wait,
	"	sti\n"
	"1:	incl	" STR(GUEST_DATA) "\n"
	"	jmp	1b\n");
GUEST(guest_sleep,
	"	sti\n"
	"1:	hlt\n"
	"	jmp	1b\n");
GUEST(guest_out_sleep,
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	mov	$0x55, %al\n"
	"	out	%al, %dx\n"
	"	sti\n"
	"1:	hlt\n"
	"	jmp	1b\n");
GUEST(guest_handler_higher,
	"	push	%ax\n"
	"	push	%dx\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	mov	$0x88, %al\n"
	"	out	%al, %dx\n"
	"	pop	%dx\n"
	"	pop	%ax\n"
	"	iret\n");

void posting_open(struct vm *vm, struct vcpu *vcpu)
{
	vm_open(vm, PVIRQ_DEVICE);
	vm_create_irqchip(vm);
	vcpu_open(vm, vcpu, 0);
	vcpu_reset(vcpu);
	vcpu_enable_lapic(vcpu);
	vm_set_handler(vm, VECTOR, guest_handler_out);
}

void guest_access(struct vm *vm, struct vcpu *vcpu, struct access *accesses, size_t count)
{
	struct access end = {};
	struct kvm_regs regs = { .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2 };
	int result;

	vm_write(vm, GUEST_CODE, guest_accesses, guest_accesses_end - guest_accesses);
	vm_write(vm, GUEST_DATA, accesses, count * sizeof(*accesses));
	vm_write(vm, GUEST_DATA + count * sizeof(*accesses), &end, sizeof(end));
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs))
		die("KVM_SET_REGS");
	result = vcpu_run(vcpu);
	if (result || vcpu->run->exit_reason != KVM_EXIT_IO || vcpu->run->io.port != GUEST_PORT)
		die("the guest did not come back: KVM_RUN %d, exit %u, port %#x", result,
		    vcpu->run->exit_reason, vcpu->run->io.port);
	/* Completes the write, so that registers can be set again. */
	vcpu->run->immediate_exit = 1;
	vcpu_run(vcpu);
	vcpu->run->immediate_exit = 0;
	memcpy(accesses, vm->memory + GUEST_DATA, count * sizeof(*accesses));
}

uint32_t guest_read(struct vm *vm, struct vcpu *vcpu, uint16_t offset)
{
	struct access access = { .port = PVIRQ_PORT_BASE + offset };

	guest_access(vm, vcpu, &access, 1);
	return access.value;
}

uint32_t guest_command(struct vm *vm, struct vcpu *vcpu, uint32_t command)
{
	struct access accesses[] = {
		{ PVIRQ_PORT_BASE + PVIRQ_REG_COMMAND, true, command },
		{ PVIRQ_PORT_BASE + PVIRQ_REG_STATUS, false, 0 },
	};

	guest_access(vm, vcpu, accesses, 2);
	return accesses[1].value;
}

uint32_t guest_register(struct vm *vm, struct vcpu *vcpu, uint64_t address, uint32_t count)
{
	struct access accesses[] = {
		{ PVIRQ_PORT_BASE + PVIRQ_REG_ADDRESS_LOW, true, address },
		{ PVIRQ_PORT_BASE + PVIRQ_REG_ADDRESS_HIGH, true, address >> 32 },
		{ PVIRQ_PORT_BASE + PVIRQ_REG_COUNT, true, count },
		{ PVIRQ_PORT_BASE + PVIRQ_REG_COMMAND, true, PVIRQ_VERSION << 16 | PVIRQ_COMMAND_REGISTER },
		{ PVIRQ_PORT_BASE + PVIRQ_REG_STATUS, false, 0 },
	};

	guest_access(vm, vcpu, accesses, 5);
	return accesses[4].value;
}

void pin(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity to CPU %d", cpu);
}

static void *run(void *data)
{
	struct runner *runner = data;

	pin(0);
	runner->result = vcpu_run(runner->vcpu);
	return NULL;
}

static void nothing(int signal)
{
}

void runner_start(struct runner *runner, struct vcpu *vcpu)
{
	struct sigaction action = { .sa_handler = nothing };

	sigaction(SIGUSR1, &action, NULL);
	runner->vcpu = vcpu;
	runner->result = 1;
	if (pthread_create(&runner->thread, NULL, run, runner))
		die("pthread_create");
}

int runner_wait(struct runner *runner)
{
	if (!eventually(!is_running(runner)))
		die("KVM_RUN does not return");
	pthread_join(runner->thread, NULL);
	return runner->result;
}

int runner_stop(struct runner *runner)
{
	while (is_running(runner)) {
		pthread_kill(runner->thread, SIGUSR1);
		usleep(1000);
	}
	return runner_wait(runner);
}

static void *contend(void *data)
{
	struct contender *contender = data;

	pin(0);
	contender->at_work = true;
	while (!contender->stop)
		;
	return NULL;
}

void contender_start(struct contender *contender)
{
	contender->stop = false;
	contender->at_work = false;
	if (pthread_create(&contender->thread, NULL, contend, contender))
		die("pthread_create");
	if (!eventually(contender->at_work))
		die("a thread does not begin");
}

void contender_stop(struct contender *contender)
{
	contender->stop = true;
	pthread_join(contender->thread, NULL);
}

struct pvirq_registration registration_of(struct vm *vm)
{
	struct pvirq_registration registration = { .size = sizeof(registration) };

	if (ioctl(vm->fd, PVIRQ_GET_REGISTRATION, &registration))
		die("PVIRQ_GET_REGISTRATION");
	return registration;
}

void vcpu_set_privilege(struct vcpu *vcpu, unsigned int level)
{
	struct kvm_segment data = {
		.limit = 0xffffffff, .selector = 0x10 | level, .type = 3, .present = 1, .dpl = level, .db = 1, .s = 1, .g = 1,
	};
	struct kvm_sregs sregs;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		die("KVM_GET_SREGS");
	sregs.cr0 |= 1;
	sregs.ds = data;
	sregs.es = data;
	sregs.ss = data;
	sregs.cs = data;
	sregs.cs.selector = 0x8 | level;
	sregs.cs.type = 11;
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs))
		die("KVM_SET_SREGS");
}

void vcpu_restart(struct vcpu *vcpu)
{
	struct kvm_sregs before, sregs;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &before))
		die("KVM_GET_SREGS");
	sregs = before;
	sregs.cr0 |= 1;
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs))
		die("KVM_SET_SREGS to protected mode");
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &before))
		die("KVM_SET_SREGS to real mode");
}

/* Whether an interrupt is in service. */
static bool is_in_service(struct vcpu *vcpu)
{
	struct kvm_lapic_state lapic;
	uint32_t service = 0;

	if (ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic))
		die("KVM_GET_LAPIC");
	/* The in-service register: 32 bits in every 16 bytes. */
	for (int i = 0x100; i < 0x180; i += 16) {
		uint32_t word;

		memcpy(&word, lapic.regs + i, sizeof(word));
		service |= word;
	}
	return service;
}

/* By Hyper-V's MSR: KVM_SET_LAPIC would replace the state of the whole local APIC, and that ends the registration. */
void vcpu_end_interrupts(struct vcpu *vcpu)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} eoi = { .header.nmsrs = 1, .entry.index = HV_X64_MSR_EOI };

	while (is_in_service(vcpu))
		if (ioctl(vcpu->fd, KVM_SET_MSRS, &eoi) != 1)
			die("KVM_SET_MSRS of the end of an interrupt");
}

long vcpu_statistic(struct vcpu *vcpu, const char *field)
{
	char value[32];

	if (!fdinfo(vcpu->fd, field, value, sizeof(value)))
		die("fdinfo has no %s", field);
	return atol(value);
}

long thread_switches(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_THREAD, &usage))
		die("getrusage");
	return usage.ru_nvcsw + usage.ru_nivcsw;
}

long proc_value(const char *field)
{
	size_t length = strlen(field);
	FILE *status = fopen("/proc/self/status", "r");
	char line[128];
	long value = -1;

	if (!status)
		die("/proc/self/status");
	while (fgets(line, sizeof(line), status))
		if (!strncmp(line, field, length) && line[length] == ':')
			value = atol(line + length + 1);
	fclose(status);
	if (value < 0)
		die("no %s in /proc/self/status", field);
	return value;
}
