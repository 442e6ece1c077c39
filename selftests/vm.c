// SPDX-License-Identifier: GPL-2.0
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "vm.h"

#define KSFT_FAIL	1

GUEST(guest_count_out,
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	xor	%eax, %eax\n"
	"1:	out	%eax, %dx\n"
	"	inc	%eax\n"
	"	jmp	1b\n");

GUEST(guest_count,
	"1:	incl	" STR(GUEST_DATA) "\n"
	"	jmp	1b\n");

GUEST(guest_halt,
	"1:	hlt\n"
	"	jmp	1b\n");

GUEST(guest_handler_out,
	"	push	%ax\n"
	"	push	%dx\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	mov	$0x77, %al\n"
	"	out	%al, %dx\n"
	"	pop	%dx\n"
	"	pop	%ax\n"
	"	iret\n");

void die(const char *format, ...)
{
	va_list arguments;
	int error = errno;

	va_start(arguments, format);
	fputs("# ", stderr);
	vfprintf(stderr, format, arguments);
	fprintf(stderr, ": %s\n", strerror(error));
	_exit(KSFT_FAIL);
}

int repeats(int count)
{
	static int divisor;

	if (!divisor)
		divisor = getenv("KSFT_MACHINE_SLOW") ? 10 : 1;
	return count / divisor;
}

uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ULL + time.tv_nsec;
}

bool more_rounds(uint64_t begin, int done, int count)
{
	return done < count && (done < (count + 9) / 10 || now() - begin < PATIENCE * 1000000000ULL);
}

/* PVIRQ_DEVICE in the environment stands for another device in the overlay's role. */
static const char *device_path(const char *path)
{
	const char *other = getenv("PVIRQ_DEVICE");

	return other && !strcmp(path, PVIRQ_DEVICE) ? other : path;
}

bool is_overlay(const char *device)
{
	return !strcmp(device_path(device), PVIRQ_DEVICE);
}

int device_try_open(const char *path, int flags)
{
	return open(device_path(path), flags);
}

int device_open(const char *path)
{
	int fd = device_try_open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("open %s", device_path(path));
	return fd;
}

void vm_open(struct vm *vm, const char *path)
{
	vm->device = device_open(path);
	vm->fd = ioctl(vm->device, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		die("KVM_CREATE_VM");
	vm->memory = vm_add_memory(vm, 0, 0, GUEST_MEMORY, 0);
}

void vm_close(struct vm *vm)
{
	close(vm->fd);
	close(vm->device);
	munmap(vm->memory, GUEST_MEMORY);
}

void vm_map_memory(struct vm *vm, unsigned int slot, uint64_t address, void *memory, size_t size, uint32_t flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.flags = flags,
		.guest_phys_addr = address,
		.memory_size = size,
		.userspace_addr = (uintptr_t)memory,
	};

	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region))
		die("KVM_SET_USER_MEMORY_REGION");
}

unsigned char *vm_add_memory(struct vm *vm, unsigned int slot, uint64_t address, size_t size, uint32_t flags)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die("mmap of guest memory");
	vm_map_memory(vm, slot, address, memory, size, flags);
	return memory;
}

void vm_create_irqchip(struct vm *vm)
{
	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0))
		die("KVM_CREATE_IRQCHIP");
}

void vcpu_open(struct vm *vm, struct vcpu *vcpu, unsigned int id)
{
	int size = ioctl(vm->device, KVM_GET_VCPU_MMAP_SIZE, 0);

	if (size < (int)sizeof(struct kvm_run))
		die("KVM_GET_VCPU_MMAP_SIZE returned %d", size);
	vcpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, id);
	if (vcpu->fd < 0)
		die("KVM_CREATE_VCPU %u", id);
	vcpu->run_size = size;
	vcpu->run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		die("mmap of vCPU %u", id);
}

void vcpu_close(struct vcpu *vcpu)
{
	munmap(vcpu->run, vcpu->run_size);
	close(vcpu->fd);
}

static void segment_set(struct kvm_segment *segment, uint64_t base)
{
	segment->base = base;
	segment->selector = base >> 4;
}

void vcpu_reset(struct vcpu *vcpu)
{
	struct kvm_regs regs = { .rip = GUEST_CODE, .rsp = GUEST_STACK, .rflags = 2 };
	struct kvm_sregs sregs;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		die("KVM_GET_SREGS");
	segment_set(&sregs.cs, 0);
	segment_set(&sregs.ds, 0);
	segment_set(&sregs.ss, 0);
	segment_set(&sregs.es, GUEST_MMIO);
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs))
		die("KVM_SET_SREGS");
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs))
		die("KVM_SET_REGS");
}

void vm_write(struct vm *vm, uint64_t address, const void *data, size_t size)
{
	if (address + size > GUEST_MEMORY)
		die("%zu bytes at %#jx are too many", size, (uintmax_t)address);
	memcpy(vm->memory + address, data, size);
}

void vm_add_handler(struct vm *vm, unsigned int vector, const void *code, size_t size)
{
	uint16_t address = GUEST_HANDLERS + vector * 16;
	uint16_t entry[2] = { address, 0 };

	if (size > 16)
		die("a handler of %zu bytes is too long", size);
	vm_write(vm, address, code, size);
	vm_write(vm, vector * sizeof(entry), entry, sizeof(entry));
}

void vcpu_enable_lapic(struct vcpu *vcpu)
{
	struct kvm_lapic_state lapic;

	if (ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic))
		die("KVM_GET_LAPIC");
	/* The bit in the spurious-interrupt vector register. */
	lapic.regs[0xf1] |= 1;
	if (ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic))
		die("KVM_SET_LAPIC");
}

int vcpu_run(struct vcpu *vcpu)
{
	return ioctl(vcpu->fd, KVM_RUN, 0) ? -errno : 0;
}

void *vcpu_io_data(struct vcpu *vcpu)
{
	return (char *)vcpu->run + vcpu->run->io.data_offset;
}

const char *fd_name(int fd, char *name, size_t size)
{
	char path[64];
	ssize_t length;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	length = readlink(path, name, size - 1);
	name[length < 0 ? 0 : length] = '\0';
	return name;
}

const char *fdinfo(int fd, const char *field, char *value, size_t size)
{
	char path[64], line[256];
	size_t length = strlen(field);
	bool found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "re");
	if (!file)
		return NULL;
	while (!found && fgets(line, sizeof(line), file)) {
		found = !strncmp(line, field, length) && line[length] == ':';
		if (found)
			snprintf(value, size, "%s", line + length + 1 + strspn(line + length + 1, " \t"));
	}
	fclose(file);
	if (!found)
		return NULL;
	value[strcspn(value, "\n")] = '\0';
	return value;
}

int fd_count(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = 0;

	if (!directory)
		die("/proc/self/fd");
	while (readdir(directory))
		count++;
	closedir(directory);
	/* ".", "..", and the directory's own. */
	return count - 3;
}

int fd_lowest_free(void)
{
	int fd = dup(STDERR_FILENO);

	if (fd < 0)
		die("dup");
	close(fd);
	return fd;
}

static struct rlimit descriptors;

void descriptors_limit(int count)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &descriptors))
		die("getrlimit");
	limit = descriptors;
	limit.rlim_cur = fd_lowest_free() + count;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		die("setrlimit");
}

void descriptors_unlimit(void)
{
	if (setrlimit(RLIMIT_NOFILE, &descriptors))
		die("setrlimit");
}

char thread_state(pid_t tid)
{
	char path[64], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(file);
	return state;
}

static bool read_number(const char *path, long *number)
{
	FILE *file = fopen(path, "re");

	if (!file)
		return false;
	if (fscanf(file, "%ld", number) != 1)
		die("no number in %s", path);
	fclose(file);
	return true;
}

int module_references(void)
{
	long references;

	return read_number("/sys/module/pvirq/refcnt", &references) ? references : -1;
}

int file_references(void)
{
	static const char *const modules[] = { "pvirq", "kvm_amd", "kvm_intel" };
	long sum = 0;

	for (unsigned int i = 0; i < sizeof(modules) / sizeof(modules[0]); i++) {
		char path[64];
		long references;

		snprintf(path, sizeof(path), "/sys/module/%s/refcnt", modules[i]);
		if (read_number(path, &references))
			sum += references;
	}
	return sum;
}

long module_statistic(const char *name)
{
	char path[64];
	long value;

	snprintf(path, sizeof(path), "/sys/kernel/debug/pvirq/%s", name);
	if (!read_number(path, &value))
		die("%s", path);
	return value;
}
