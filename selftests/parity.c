// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "parity.h"

/*
 * An address that no task can map: its last page. For one of 64 bits it is the kernel's; one of 32 bits has TASK_SIZE,
 * 0xffffe000, below it, and may have its stack right below that.
 */
#define KERNEL_ADDRESS	((void *)-PAGE_SIZE)

/* The bytes that arguments are filled with: 0, 0x33, … */
#define POISON_STEP	0x33

/* The buffer for arguments, the page that may not be touched, and what is free for probes. The same on both devices. */
static unsigned char *buffer;
static unsigned char *guard;
static unsigned char *extra;

static const char *const target_names[TARGETS] = { "system", "VM", "vCPU" };

static void *pages(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die("mmap");
	return memory;
}

/* Whether a range of addresses can be mapped; then it is taken from here on, and cannot be accessed. */
static bool reserve(uintptr_t address, size_t size)
{
	void *page = (void *)(address & -PAGE_SIZE);
	void *memory = mmap(page, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (memory == MAP_FAILED && errno == EEXIST)
		die("something is mapped at %p", page);
	return memory != MAP_FAILED;
}

/*
 * Gets memory, and keeps everything away from the addresses that are to be bad ones: the guard, KERNEL_ADDRESS, and what
 * is in a pointer that is filled with a pattern, an address of user space for 32 bits.
 */
static void get_memory(void)
{
	if (buffer)
		return;
	if (reserve((uintptr_t)KERNEL_ADDRESS, PAGE_SIZE))
		die("%p is user space", KERNEL_ADDRESS);
	for (uintptr_t poison = POISON_STEP; poison < 0xff; poison += POISON_STEP)
		reserve(ULONG_MAX / 0xff * poison, ARGUMENT_SIZE);
	extra = pages(PAGE_SIZE);
	buffer = pages(ARGUMENT_SIZE + PAGE_SIZE);
	guard = buffer + ARGUMENT_SIZE;
	if (mprotect(guard, PAGE_SIZE, PROT_NONE))
		die("mprotect");
}

static void buffer_protect(int protection)
{
	if (mprotect(buffer, ARGUMENT_SIZE, protection))
		die("mprotect");
}

/*
 * KVM's tables describe the CPU that one runs on, so stay on one. All that has
 * a descriptor is made in the same order, so that numbers are the same, too.
 */
static void scene_open(struct scene *scene, const struct probe *probe, const char *device)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(0, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("sched_setaffinity");

	get_memory();
	vm_open(&scene->vm, device);
	if (probe->irqchip)
		vm_create_irqchip(&scene->vm);
	vcpu_open(&scene->vm, &scene->vcpu, 0);
	scene->fd[SYSTEM] = scene->vm.device;
	scene->fd[VM] = scene->vm.fd;
	scene->fd[VCPU] = scene->vcpu.fd;
	scene->eventfd = eventfd(0, EFD_CLOEXEC);
	if (scene->eventfd < 0)
		die("eventfd");
	memset(buffer, 0, ARGUMENT_SIZE);
	memset(extra, 0, PAGE_SIZE);
	scene->extra = extra;
	if (probe->prepare)
		probe->prepare(scene);
}

static void scene_close(struct scene *scene)
{
	vcpu_close(&scene->vcpu);
	munmap(scene->vm.memory, GUEST_MEMORY);
	/* And what the calls have opened. */
	if (close_range(scene->vm.device, ~0U, 0))
		die("close_range");
}

/* FNV-1a, in words of 64 bits. */
static uint64_t digest(uint64_t hash, const void *data, size_t size)
{
	const uint64_t *words = data;

	for (size_t i = 0; i < size / sizeof(*words); i++)
		hash = (hash ^ words[i]) * 0x100000001b3ULL;
	return hash;
}

/* Makes equal what may differ; of an argument that is cut in two, all that is there. */
static void mask(struct scene *scene, const struct probe *probe, unsigned char *argument)
{
	size_t size = _IOC_SIZE(probe->request);

	if (!probe->mask || argument < buffer || argument >= guard)
		return;
	if (argument + size > guard)
		memset(argument, 0, guard - argument);
	else
		probe->mask(scene, argument);
}

static void call(struct scene *scene, const struct probe *probe, struct record *record, int fd,
		 unsigned long request, void *argument, const char *what)
{
	struct outcome *outcome = &record->outcomes[record->count++];
	uint64_t hash = 0xcbf29ce484222325ULL;

	if (record->count > MAX_OUTCOMES)
		die("more than %d calls", MAX_OUTCOMES);
	errno = 0;
	outcome->ret = ioctl(fd, request, argument);
	outcome->error = errno;
	/* The call may have been one with a read-only argument. */
	buffer_protect(PROT_READ | PROT_WRITE);
	outcome->on_target = fd == scene->fd[probe->on];
	snprintf(outcome->call, sizeof(outcome->call), "%s", what);
	mask(scene, probe, argument);
	hash = digest(hash, buffer, ARGUMENT_SIZE);
	hash = digest(hash, scene->extra, PAGE_SIZE);
	outcome->memory = digest(hash, scene->vcpu.run, scene->vcpu.run_size);
}

/* Puts the argument as it should be at an address; what is behind it is poisoned. */
static void fill(struct scene *scene, const struct probe *probe, unsigned char *argument)
{
	size_t size = _IOC_SIZE(probe->request);

	memset(buffer, 0xcc, ARGUMENT_SIZE);
	memset(argument, 0, size);
	if (probe->get && ioctl(scene->fd[probe->on], probe->get, argument) < 0)
		die("the call that fills the argument, %#lx", probe->get);
	if (probe->fill)
		probe->fill(scene, argument);
}

static void record_values(struct scene *scene, const struct probe *probe, struct record *record)
{
	static const long bad[] = { 0, 1, 2, 3, 63, 4096, 0x10000, INT_MAX, INT_MIN, -1 };
	char what[48];

	for (unsigned int i = 0; i < sizeof(probe->values) / sizeof(probe->values[0]); i++) {
		snprintf(what, sizeof(what), "with %ld", probe->values[i]);
		call(scene, probe, record, scene->fd[probe->on], probe->request,
		     (void *)probe->values[i], what);
	}
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(what, sizeof(what), "with %ld", bad[i]);
		call(scene, probe, record, scene->fd[probe->on], probe->request, (void *)bad[i], what);
	}
}

static void record_pointers(struct scene *scene, const struct probe *probe, struct record *record)
{
	size_t size = _IOC_SIZE(probe->request);
	int fd = scene->fd[probe->on];

	fill(scene, probe, buffer);
	call(scene, probe, record, fd, probe->request, buffer, "as it should be");
	fill(scene, probe, buffer);
	call(scene, probe, record, fd, probe->request, buffer, "once more");
	fill(scene, probe, buffer + 1);
	call(scene, probe, record, fd, probe->request, buffer + 1, "unaligned");
	fill(scene, probe, buffer);
	buffer_protect(PROT_READ);
	call(scene, probe, record, fd, probe->request, buffer, "in read-only memory");

	memset(buffer, 0xcc, ARGUMENT_SIZE);
	call(scene, probe, record, fd, probe->request, guard - size / 2, "half unmapped");
	memset(buffer, 0xcc, ARGUMENT_SIZE);
	call(scene, probe, record, fd, probe->request, guard, "unmapped");
	call(scene, probe, record, fd, probe->request, NULL, "NULL");
	call(scene, probe, record, fd, probe->request, KERNEL_ADDRESS, "of the kernel's");
	for (int poison = 0; poison <= 0xff; poison += POISON_STEP) {
		char what[48];

		memset(buffer, poison, ARGUMENT_SIZE);
		snprintf(what, sizeof(what), "all %#x", poison);
		call(scene, probe, record, fd, probe->request, buffer, what);
	}
}

/* The right call in the wrong place, and almost the right call. */
static void record_strays(struct scene *scene, const struct probe *probe, struct record *record)
{
	void *argument = probe->by_value ? (void *)probe->values[0] : buffer;
	unsigned int nr = _IOC_NR(probe->request), size = _IOC_SIZE(probe->request);
	int fd = scene->fd[probe->on];
	char what[48];

	for (int on = 0; on < TARGETS; on++) {
		if (on == (int)probe->on)
			continue;
		if (!probe->by_value)
			fill(scene, probe, buffer);
		snprintf(what, sizeof(what), "on the %s", target_names[on]);
		call(scene, probe, record, scene->fd[on], probe->request, argument, what);
	}
	call(scene, probe, record, -1, probe->request, argument, "on -1");
	call(scene, probe, record, fd, _IOC(_IOC_DIR(probe->request), 0xaf, nr, size), argument,
	     "of another type");
	call(scene, probe, record, fd, _IOC(_IOC_DIR(probe->request), 0xae, nr, size + 8), argument,
	     "of another size");
	call(scene, probe, record, fd, _IOC(_IOC_DIR(probe->request) ^ _IOC_READ, 0xae, nr, size),
	     argument, "of another direction");
	if (sizeof(probe->request) > sizeof(unsigned int))
		call(scene, probe, record, fd, probe->request | (1ULL << 32), argument, "with high bits");
}

void probe_record(const struct probe *probe, const char *device, struct record *record)
{
	struct scene scene;

	scene_open(&scene, probe, device);
	if (probe->by_value)
		record_values(&scene, probe, record);
	else
		record_pointers(&scene, probe, record);
	record_strays(&scene, probe, record);
	scene_close(&scene);
}

void sweep_record(enum target on, const char *device, struct record *record)
{
	static const struct probe none;
	struct scene scene;
	char what[48];

	scene_open(&scene, &none, device);
	for (unsigned int nr = 0; nr <= 0xff; nr++)
		for (unsigned int dir = 0; dir <= (_IOC_READ | _IOC_WRITE); dir++)
			for (unsigned int size = 0; size <= 8; size += 8) {
				snprintf(what, sizeof(what), "_IOC(%u, KVMIO, %#x, %u)", dir, nr, size);
				call(&scene, &none, record, scene.fd[on], _IOC(dir, KVMIO, nr, size), NULL,
				     what);
			}
	scene_close(&scene);
}

int record_compare(const struct record *kvm, const struct record *pvirq)
{
	int differences = 0;

	if (kvm->count != pvirq->count) {
		printf("# %d calls on %s, %d on %s\n", kvm->count, KVM_DEVICE, pvirq->count, PVIRQ_DEVICE);
		return 1;
	}
	for (int i = 0; i < kvm->count; i++) {
		const struct outcome *a = &kvm->outcomes[i], *b = &pvirq->outcomes[i];

		if (a->ret == b->ret && a->error == b->error && a->memory == b->memory)
			continue;
		differences++;
		printf("# %s: %ld (errno %d) on %s, %ld (errno %d) on %s%s\n", a->call, a->ret, a->error,
		       KVM_DEVICE, b->ret, b->error, PVIRQ_DEVICE,
		       a->memory == b->memory ? "" : ", and other bytes in memory");
	}
	return differences;
}

int record_successes(const struct record *record)
{
	int successes = 0;

	for (int i = 0; i < record->count; i++)
		successes += record->outcomes[i].on_target && record->outcomes[i].ret >= 0;
	return successes;
}
