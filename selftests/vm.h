/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The virtual machine of these tests: one segment of real-mode memory at
 * guest-physical address 0, vCPUs that start at GUEST_CODE, and guest code
 * that is written as 16-bit assembler beside the test that runs it.
 *
 * What the helpers need and cannot get ends the test with a message, in
 * whatever thread or child process that happens.
 */
#ifndef _PVIRQ_SELFTESTS_VM_H
#define _PVIRQ_SELFTESTS_VM_H

#include <linux/kvm.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define KVM_DEVICE	"/dev/kvm"
#define PVIRQ_DEVICE	"/dev/pvirq"

#define PAGE_SIZE	0x1000UL
#define GUEST_CODE	0x1000
#define GUEST_HANDLERS	0x2000
#define GUEST_DATA	0x4000
#define GUEST_STACK	0x8000
#define GUEST_MEMORY	0x10000
/* Guest-physical address without memory; ES points to it. */
#define GUEST_MMIO	0x20000
/* I/O port without a device. */
#define GUEST_PORT	0x3f8

/* How long, in seconds, a test waits for what other tasks have to do. */
#define PATIENCE	30

#define _STR(x)	#x
#define STR(x)	_STR(x)

#ifdef __x86_64__
#define HOST_CODE	".code64\n"
#else
#define HOST_CODE	".code32\n"
#endif

/* Guest code for real mode, with all segments but ES at 0. */
#define GUEST_CODE_OF(name)						\
	extern const unsigned char name[], name##_end[]

#define GUEST(name, text)						\
	GUEST_CODE_OF(name);						\
	asm(".pushsection .rodata\n"					\
	    ".globl " #name ", " #name "_end\n"				\
	    ".code16\n"							\
	    #name ":\n"							\
	    text							\
	    #name "_end:\n"						\
	    HOST_CODE							\
	    ".popsection\n")

/* Writes 0, 1, 2, … as 32-bit numbers to the port. */
GUEST_CODE_OF(guest_count_out);
/* Counts in memory at GUEST_DATA, and never exits by itself. */
GUEST_CODE_OF(guest_count);
/* Halts for ever. */
GUEST_CODE_OF(guest_halt);
/* As an interrupt's handler: writes 0x77 to the port. */
GUEST_CODE_OF(guest_handler_out);

/*
 * Makes the tests of a fixture run on both devices. /dev/kvm is the yardstick:
 * an expectation that does not hold there is an error of the test.
 */
#define ON_BOTH_DEVICES(fixture)					\
	FIXTURE_VARIANT(fixture)					\
	{								\
		const char *device;					\
	};								\
	FIXTURE_VARIANT_ADD(fixture, kvm)				\
	{								\
		.device = KVM_DEVICE,					\
	};								\
	FIXTURE_VARIANT_ADD(fixture, pvirq)				\
	{								\
		.device = PVIRQ_DEVICE,					\
	}

/* Waits until a condition holds; false if it does not within PATIENCE. */
#define eventually(condition)						\
	({								\
		uint64_t _deadline = now() + PATIENCE * 1000000000ULL;	\
		bool _holds;						\
		while (!(_holds = (condition)) && now() < _deadline)	\
			sched_yield();					\
		_holds;							\
	})

/*
 * Repeats something `count` times, or fewer on a machine on which that takes longer than PATIENCE, but a tenth of that:
 * no test ends at its time limit because all goes on slowly. `i` says how often it was in the end.
 */
#define repeat(i, count)						\
	for (uint64_t _begin = ((i) = 0, now()); more_rounds(_begin, i, count); (i)++)

struct vm {
	int device;
	int fd;
	unsigned char *memory;
};

struct vcpu {
	int fd;
	struct kvm_run *run;
	size_t run_size;
};

/* Whether to do it once more, of `count` times, when it was done `done` times since `begin`; see repeat(). */
bool more_rounds(uint64_t begin, int done, int count);

/* How often to repeat something: `count` times, or fewer where kselftest's KSFT_MACHINE_SLOW is set. */
int repeats(int count);

/* Ends the process: the test has failed. */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Nanoseconds since some point in the past. */
uint64_t now(void);

/* Opens a device with flags of open(2); -1 and errno if that fails. */
int device_try_open(const char *path, int flags);

/* Opens a device, for reading and writing. */
int device_open(const char *path);

/* Creates a VM on a device, with GUEST_MEMORY bytes of memory that children share. */
void vm_open(struct vm *vm, const char *path);
void vm_close(struct vm *vm);

/* Gives a VM memory in a slot; the bytes are shared with children. */
unsigned char *vm_add_memory(struct vm *vm, unsigned int slot, uint64_t address, size_t size, uint32_t flags);

/* Puts memory that exists into a slot. */
void vm_map_memory(struct vm *vm, unsigned int slot, uint64_t address, void *memory, size_t size, uint32_t flags);

/* Creates the interrupt controllers; vCPUs must come after. */
void vm_create_irqchip(struct vm *vm);

/* Creates a vCPU and maps its kvm_run. */
void vcpu_open(struct vm *vm, struct vcpu *vcpu, unsigned int id);
void vcpu_close(struct vcpu *vcpu);

/* Puts guest code into memory, and the vCPU in real mode before it. */
#define vcpu_load(vm, vcpu, code)					\
	do {								\
		vm_write(vm, GUEST_CODE, code, code##_end - code);	\
		vcpu_reset(vcpu);					\
	} while (0)
void vcpu_reset(struct vcpu *vcpu);
void vm_write(struct vm *vm, uint64_t address, const void *data, size_t size);

/* Makes guest code the handler of an interrupt in real mode. */
#define vm_set_handler(vm, vector, code)				\
	vm_add_handler(vm, vector, code, code##_end - code)
void vm_add_handler(struct vm *vm, unsigned int vector, const void *code, size_t size);

/* Switches the local APIC on; KVM delivers nothing to a new one. */
void vcpu_enable_lapic(struct vcpu *vcpu);

/* KVM_RUN; 0, or the negative errno. */
int vcpu_run(struct vcpu *vcpu);

/* The data of an I/O exit. */
void *vcpu_io_data(struct vcpu *vcpu);

/* The counter of guest_count. */
static inline uint32_t guest_counter(struct vm *vm)
{
	return *(volatile uint32_t *)(vm->memory + GUEST_DATA);
}

/* What /proc says of a file descriptor of this process: the name of its file. */
const char *fd_name(int fd, char *name, size_t size);

/* The value of a field in fdinfo, as a string; NULL if there is no such field. */
const char *fdinfo(int fd, const char *field, char *value, size_t size);

/* Number of file descriptors that are open. */
int fd_count(void);

/* The lowest file descriptor that is free. */
int fd_lowest_free(void);

/* Leaves so many numbers for new descriptors, under any limit, until descriptors_unlimit(). */
void descriptors_limit(int count);
void descriptors_unlimit(void);

/* The state of a thread as /proc shows it: 'R', 'S', 'T', …; 0 if it is gone. */
char thread_state(pid_t tid);

/* Whether the device is the overlay; it is not where the tests are tried on /dev/kvm in both roles. */
bool is_overlay(const char *device);

/* How often pvirq's module is in use; -1 if it is not loaded. */
int module_references(void);

/* How often pvirq's and KVM's modules are in use: each file of a device, a VM or a vCPU counts. */
int file_references(void);

/*
 * Expects that no more files are open than `count`, an earlier file_references(). Files of a process that has ended
 * may take a moment to go: those of this test now, and those of the test before it when they were counted.
 */
#define EXPECT_FILES(count)						\
	EXPECT_TRUE(eventually(file_references() <= (count)))		\
		TH_LOG("%d files are open, not %d", file_references(), count)

/* A statistic that the module shows in debugfs. */
long module_statistic(const char *name);

/* Expects that the module has as many VMs and vCPUs, of all processes. */
#define EXPECT_VMS(vms, vcpus)						\
	do {								\
		EXPECT_TRUE(eventually(module_statistic("vms") == (vms)))	\
			TH_LOG("%ld VMs", module_statistic("vms"));	\
		EXPECT_TRUE(eventually(module_statistic("vcpus") == (vcpus)))	\
			TH_LOG("%ld vCPUs", module_statistic("vcpus"));	\
	} while (0)

#endif
