// SPDX-License-Identifier: GPL-2.0
/* What else has a descriptor and belongs to a VM: eventfds, statistics, devices, memory. */
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"
#include "vm.h"

#define NMI	2
#define GSI	24

FIXTURE(objects)
{
	struct vm vm;
	struct vcpu vcpu;
	int event;
	int files;
};

ON_BOTH_DEVICES(objects);

FIXTURE_SETUP(objects)
{
	self->files = file_references();
	vm_open(&self->vm, variant->device);
	vm_create_irqchip(&self->vm);
	vcpu_open(&self->vm, &self->vcpu, 0);
	vcpu_load(&self->vm, &self->vcpu, guest_halt);
	vcpu_enable_lapic(&self->vcpu);
	vm_set_handler(&self->vm, NMI, guest_handler_out);
	self->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ASSERT_LE(0, self->event);
}

FIXTURE_TEARDOWN(objects)
{
	close(self->event);
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
	EXPECT_FILES(self->files);
}

/* Makes the GSI an NMI to vCPU 0, and the eventfd its source. */
static int bind_nmi(struct vm *vm, int event)
{
	struct {
		struct kvm_irq_routing header;
		struct kvm_irq_routing_entry entry;
	} routing = {
		.header.nr = 1,
		.entry = {
			.gsi = GSI,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = { .address_lo = 0xfee00000, .data = 4 << 8 },
		},
	};
	struct kvm_irqfd irqfd = { .fd = event, .gsi = GSI };

	if (ioctl(vm->fd, KVM_SET_GSI_ROUTING, &routing))
		die("KVM_SET_GSI_ROUTING");
	return ioctl(vm->fd, KVM_IRQFD, &irqfd);
}

TEST_F(objects, irqfd)
{
	ASSERT_EQ(0, bind_nmi(&self->vm, self->event));
	for (int i = 0; i < 20; i++) {
		ASSERT_EQ(0, eventfd_write(self->event, 1));
		ASSERT_EQ(0, vcpu_run(&self->vcpu));
		ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);
	}
}

/* An eventfd has one irqfd at most, and is free when the VM's descriptor is closed, though a vCPU is open still. */
TEST_F(objects, irqfd_ends_with_the_vm_descriptor)
{
	struct vm other;

	vm_open(&other, variant->device);
	vm_create_irqchip(&other);
	ASSERT_EQ(0, bind_nmi(&self->vm, self->event));
	EXPECT_EQ(-1, bind_nmi(&other, self->event));
	EXPECT_EQ(EBUSY, errno);
	close(self->vm.fd);
	EXPECT_EQ(0, bind_nmi(&other, self->event));
	vm_close(&other);
	self->vm.fd = -1;
}

/* Writes a word to memory that is not there, to the port, and to the next port. */
GUEST(guest_signal,
	"	mov	$0x1234, %ax\n"
	"	mov	%ax, %es:0\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	out	%ax, %dx\n"
	"	inc	%dx\n"
	"	out	%ax, %dx\n");

TEST_F(objects, ioeventfd)
{
	struct kvm_ioeventfd memory = { .addr = GUEST_MMIO, .len = 2, .fd = self->event };
	struct kvm_ioeventfd port = {
		.datamatch = 0x1234,
		.addr = GUEST_PORT,
		.len = 2,
		.fd = self->event,
		.flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH,
	};
	eventfd_t count;

	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_IOEVENTFD, &memory));
	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_IOEVENTFD, &port));
	vcpu_load(&self->vm, &self->vcpu, guest_signal);
	/* Two of the writes signal, and only the last is the VMM's business. */
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);
	ASSERT_EQ(GUEST_PORT + 1, self->vcpu.run->io.port);
	ASSERT_EQ(0, eventfd_read(self->event, &count));
	ASSERT_EQ(2, count);

	memory.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	port.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_IOEVENTFD, &memory));
	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_IOEVENTFD, &port));
	/* KVM finishes the last write before anything else, and would finish it in the new code. */
	self->vcpu.run->immediate_exit = 1;
	ASSERT_EQ(-EINTR, vcpu_run(&self->vcpu));
	self->vcpu.run->immediate_exit = 0;
	vcpu_load(&self->vm, &self->vcpu, guest_signal);
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(KVM_EXIT_MMIO, self->vcpu.run->exit_reason);
	ASSERT_EQ(GUEST_MMIO, self->vcpu.run->mmio.phys_addr);
	ASSERT_EQ(0, vcpu_run(&self->vcpu));
	ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);
	ASSERT_EQ(GUEST_PORT, self->vcpu.run->io.port);
	ASSERT_EQ(-1, eventfd_read(self->event, &count));
	ASSERT_EQ(EAGAIN, errno);
}

/* Reads what statistics say of themselves: the header, the name, the descriptors. */
static size_t read_description(int fd, char *buffer, size_t size)
{
	struct kvm_stats_header *header = (void *)buffer;
	ssize_t length = pread(fd, buffer, size, 0);

	if (length < (ssize_t)sizeof(*header) || header->data_offset > length)
		die("%zd bytes of statistics", length);
	return header->data_offset;
}

FIXTURE(statistics)
{
	struct vm kvm, pvirq;
	struct vcpu kvm_vcpu, pvirq_vcpu;
};

FIXTURE_SETUP(statistics)
{
	vm_open(&self->kvm, KVM_DEVICE);
	vm_open(&self->pvirq, PVIRQ_DEVICE);
	vcpu_open(&self->kvm, &self->kvm_vcpu, 0);
	vcpu_open(&self->pvirq, &self->pvirq_vcpu, 0);
}

FIXTURE_TEARDOWN(statistics)
{
	vcpu_close(&self->kvm_vcpu);
	vcpu_close(&self->pvirq_vcpu);
	vm_close(&self->kvm);
	vm_close(&self->pvirq);
}

TEST_F(statistics, description)
{
	struct {
		int kvm, pvirq;
		const char *name;
	} pairs[] = {
		{ self->kvm.fd, self->pvirq.fd, "anon_inode:kvm-vm-stats" },
		{ self->kvm_vcpu.fd, self->pvirq_vcpu.fd, "anon_inode:kvm-vcpu-stats:0" },
	};
	static char kvm[0x4000], pvirq[0x4000];
	char name[64];

	for (unsigned int i = 0; i < ARRAY_SIZE(pairs); i++) {
		int a = ioctl(pairs[i].kvm, KVM_GET_STATS_FD, 0);
		int b = ioctl(pairs[i].pvirq, KVM_GET_STATS_FD, 0);
		size_t size;

		ASSERT_LE(0, a);
		ASSERT_LE(0, b);
		EXPECT_STREQ(pairs[i].name, fd_name(b, name, sizeof(name)));
		size = read_description(a, kvm, sizeof(kvm));
		ASSERT_EQ(size, read_description(b, pvirq, sizeof(pvirq)));
		EXPECT_EQ(0, memcmp(kvm, pvirq, size));
		close(a);
		close(b);
	}
}

/* The statistics of a vCPU: the value of one by its name. */
static uint64_t statistic(int fd, const char *name)
{
	static char buffer[0x4000] __attribute__((aligned(8)));
	struct kvm_stats_header *header = (void *)buffer;

	if (pread(fd, buffer, sizeof(buffer), 0) < (ssize_t)sizeof(*header))
		die("statistics");
	for (unsigned int i = 0; i < header->num_desc; i++) {
		struct kvm_stats_desc *desc =
			(void *)(buffer + header->desc_offset + i * (sizeof(*desc) + header->name_size));

		if (!strcmp(desc->name, name))
			return *(uint64_t *)(buffer + header->data_offset + desc->offset);
	}
	die("no statistic %s", name);
}

/* The overlay adds no exit: KVM counts as many on either device for the same guest. */
TEST_F(statistics, exits)
{
	struct vcpu *vcpus[] = { &self->kvm_vcpu, &self->pvirq_vcpu };
	struct vm *vms[] = { &self->kvm, &self->pvirq };

	for (unsigned int i = 0; i < ARRAY_SIZE(vcpus); i++) {
		int fd = ioctl(vcpus[i]->fd, KVM_GET_STATS_FD, 0);

		ASSERT_LE(0, fd);
		vcpu_load(vms[i], vcpus[i], guest_count_out);
		for (int run = 0; run < 1000; run++)
			ASSERT_EQ(0, vcpu_run(vcpus[i]));
		EXPECT_EQ(1000, statistic(fd, "io_exits"));
		EXPECT_EQ(0, statistic(fd, "signal_exits"));
		EXPECT_EQ(0, statistic(fd, "mmio_exits"));
		close(fd);
	}
}

/* Statistics can be read after all else is closed. */
TEST_F(objects, statistics_after_close)
{
	static char buffer[0x4000];
	int fd = ioctl(self->vcpu.fd, KVM_GET_STATS_FD, 0);

	ASSERT_LE(0, fd);
	close(self->vcpu.fd);
	close(self->vm.fd);
	close(self->vm.device);
	EXPECT_LT(0, read_description(fd, buffer, sizeof(buffer)));
	close(fd);
	self->vcpu.fd = self->vm.fd = self->vm.device = -1;
}

TEST_F(objects, device)
{
	struct kvm_create_device device = { .type = KVM_DEV_TYPE_VFIO, .flags = KVM_CREATE_DEVICE_TEST };
	struct kvm_device_attr attr = { .group = KVM_DEV_VFIO_FILE, .attr = KVM_DEV_VFIO_FILE_ADD };
	char name[64];

	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_CREATE_DEVICE, &device));
	device.flags = 0;
	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_CREATE_DEVICE, &device));
	EXPECT_STREQ("anon_inode:kvm-vfio", fd_name(device.fd, name, sizeof(name)));
	EXPECT_EQ(0, ioctl(device.fd, KVM_HAS_DEVICE_ATTR, &attr));
	attr.group = 0x1234;
	EXPECT_EQ(-1, ioctl(device.fd, KVM_HAS_DEVICE_ATTR, &attr));
	EXPECT_EQ(ENXIO, errno);
	/* A device holds the VM, not its descriptor. */
	close(self->vm.fd);
	EXPECT_EQ(0, ioctl(self->vcpu.fd, KVM_NMI, 0));
	close(device.fd);
	self->vm.fd = -1;
}

/* A guest runs in memory that is a file of KVM's own. */
TEST_F(objects, guest_memfd)
{
	struct kvm_create_guest_memfd memfd = {
		.size = GUEST_MEMORY,
		.flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED,
	};
	struct kvm_userspace_memory_region2 region = {
		.slot = 0,
		.flags = KVM_MEM_GUEST_MEMFD,
		.memory_size = GUEST_MEMORY,
	};
	struct stat status;
	struct vm vm = { .device = device_open(variant->device) };
	struct vcpu vcpu;

	vm.fd = ioctl(vm.device, KVM_CREATE_VM, 0);
	ASSERT_LE(0, vm.fd);
	ASSERT_EQ(memfd.flags, memfd.flags & ioctl(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_GUEST_MEMFD_FLAGS));
	region.guest_memfd = ioctl(vm.fd, KVM_CREATE_GUEST_MEMFD, &memfd);
	ASSERT_LE(0, (int)region.guest_memfd);
	ASSERT_EQ(0, fstat(region.guest_memfd, &status));
	EXPECT_EQ(GUEST_MEMORY, status.st_size);
	vm.memory = mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, region.guest_memfd, 0);
	ASSERT_TRUE(vm.memory != MAP_FAILED);
	region.userspace_addr = (uintptr_t)vm.memory;
	ASSERT_EQ(0, ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION2, &region));
	vcpu_open(&vm, &vcpu, 0);
	vcpu_load(&vm, &vcpu, guest_count_out);
	EXPECT_EQ(0, vcpu_run(&vcpu));
	EXPECT_EQ(KVM_EXIT_IO, vcpu.run->exit_reason);
	close(region.guest_memfd);
	vcpu_close(&vcpu);
	vm_close(&vm);
}

TEST_HARNESS_MAIN
