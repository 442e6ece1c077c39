// SPDX-License-Identifier: GPL-2.0
/* Parity of the ioctls of a VM. */
#include <sys/ioctl.h>

#include "parity_harness.h"

#define SLOT		1
#define SLOT_ADDRESS	0x100000

static void fill_memory(struct scene *scene, void *argument)
{
	struct kvm_userspace_memory_region *region = argument;

	region->slot = SLOT;
	region->flags = KVM_MEM_LOG_DIRTY_PAGES;
	region->guest_phys_addr = SLOT_ADDRESS;
	region->memory_size = PAGE_SIZE;
	region->userspace_addr = (uintptr_t)scene->extra;
}

static void prepare_slot(struct scene *scene)
{
	struct kvm_userspace_memory_region region = {};

	fill_memory(scene, &region);
	if (ioctl(scene->vm.fd, KVM_SET_USER_MEMORY_REGION, &region))
		die("KVM_SET_USER_MEMORY_REGION");
}

static void fill_dirty_log(struct scene *scene, void *argument)
{
	struct kvm_dirty_log *log = argument;

	log->slot = SLOT;
	log->dirty_bitmap = scene->extra;
}

static void prepare_manual_clear(struct scene *scene)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { 1 } };

	if (ioctl(scene->vm.fd, KVM_ENABLE_CAP, &cap))
		die("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
	prepare_slot(scene);
}

static void fill_clear_dirty_log(struct scene *scene, void *argument)
{
	struct kvm_clear_dirty_log *log = argument;

	log->slot = SLOT;
	log->num_pages = 1;
	log->dirty_bitmap = scene->extra;
}

static void fill_enable_cap(struct scene *scene, void *argument)
{
	struct kvm_enable_cap *cap = argument;

	cap->cap = KVM_CAP_MAX_VCPU_ID;
	cap->args[0] = 8;
}

static void prepare_before_vcpus(struct scene *scene)
{
	/* A VM of its own: some calls are too late once there is a vCPU. */
	scene->fd[VM] = ioctl(scene->vm.device, KVM_CREATE_VM, 0);
	if (scene->fd[VM] < 0)
		die("KVM_CREATE_VM");
}

static void fill_identity_map(struct scene *scene, void *argument)
{
	*(uint64_t *)argument = 0xfffbc000;
}

static void fill_coalesced(struct scene *scene, void *argument)
{
	struct kvm_coalesced_mmio_zone *zone = argument;

	zone->addr = GUEST_MMIO;
	zone->size = PAGE_SIZE;
}

static void fill_irqfd(struct scene *scene, void *argument)
{
	struct kvm_irqfd *irqfd = argument;

	irqfd->fd = scene->eventfd;
	irqfd->gsi = 5;
}

static void fill_ioeventfd(struct scene *scene, void *argument)
{
	struct kvm_ioeventfd *ioeventfd = argument;

	ioeventfd->addr = GUEST_MMIO;
	ioeventfd->len = 4;
	ioeventfd->fd = scene->eventfd;
}

static void fill_irq_level(struct scene *scene, void *argument)
{
	struct kvm_irq_level *level = argument;

	level->irq = 5;
	level->level = 1;
}

static void fill_irqchip(struct scene *scene, void *argument)
{
	struct kvm_irqchip *chip = argument;

	chip->chip_id = KVM_IRQCHIP_IOAPIC;
}

static void fill_routing(struct scene *scene, void *argument)
{
	struct kvm_irq_routing *routing = argument;

	routing->nr = 1;
	memset(&routing->entries[0], 0, sizeof(routing->entries[0]));
	routing->entries[0].gsi = 5;
	routing->entries[0].type = KVM_IRQ_ROUTING_MSI;
	routing->entries[0].u.msi.address_lo = 0xfee00000;
}

static void fill_msi(struct scene *scene, void *argument)
{
	struct kvm_msi *msi = argument;

	msi->address_lo = 0xfee00000;
	msi->data = 0x20;
}

static void prepare_pit(struct scene *scene)
{
	struct kvm_pit_config config = {};

	if (ioctl(scene->vm.fd, KVM_CREATE_PIT2, &config))
		die("KVM_CREATE_PIT2");
}

/* When the channels were loaded, in nanoseconds. */
static void mask_pit(struct scene *scene, void *argument)
{
	struct kvm_pit_state2 *pit = argument;

	for (int i = 0; i < 3; i++)
		pit->channels[i].count_load_time = 0;
}

/* The time. */
static void mask_clock(struct scene *scene, void *argument)
{
	struct kvm_clock_data *clock = argument;

	clock->clock = 0;
	clock->realtime = 0;
	clock->host_tsc = 0;
}

static void fill_clock(struct scene *scene, void *argument)
{
	struct kvm_clock_data *clock = argument;

	clock->clock = 1000000000;
}

static void fill_create_device(struct scene *scene, void *argument)
{
	struct kvm_create_device *device = argument;

	device->type = KVM_DEV_TYPE_VFIO;
}

static void fill_guest_memfd(struct scene *scene, void *argument)
{
	struct kvm_create_guest_memfd *memfd = argument;

	memfd->size = PAGE_SIZE;
}

static void fill_xen_config(struct scene *scene, void *argument)
{
	struct kvm_xen_hvm_config *config = argument;

	config->flags = KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL;
	config->msr = 0x40000000;
}

static void fill_xen_attr(struct scene *scene, void *argument)
{
	struct kvm_xen_hvm_attr *attr = argument;

	attr->type = KVM_XEN_ATTR_TYPE_LONG_MODE;
}

static void fill_hyperv_eventfd(struct scene *scene, void *argument)
{
	struct kvm_hyperv_eventfd *hyperv = argument;

	hyperv->conn_id = 1;
	hyperv->fd = scene->eventfd;
}

static void fill_msr_filter(struct scene *scene, void *argument)
{
	struct kvm_msr_filter *filter = argument;

	filter->flags = KVM_MSR_FILTER_DEFAULT_ALLOW;
	filter->ranges[0].flags = KVM_MSR_FILTER_READ;
	filter->ranges[0].base = 0x10;
	filter->ranges[0].nmsrs = 8;
	filter->ranges[0].bitmap = scene->extra;
}

static void fill_pmu_filter(struct scene *scene, void *argument)
{
	struct kvm_pmu_event_filter *filter = argument;

	filter->action = KVM_PMU_EVENT_ALLOW;
}

static void fill_enc_region(struct scene *scene, void *argument)
{
	struct kvm_enc_region *region = argument;

	region->addr = (uintptr_t)scene->extra;
	region->size = PAGE_SIZE;
}

static void fill_device_attr(struct scene *scene, void *argument)
{
	struct kvm_device_attr *attr = argument;

	attr->addr = (uintptr_t)scene->extra;
}

/* On a vCPU, this attribute is the offset of its TSC. */
static void mask_tsc_offset(struct scene *scene, void *argument)
{
	memset(scene->extra, 0, PAGE_SIZE);
}

PROBE(CREATE_VCPU, VM, .by_value = true, .values = { 1, 1, 0, 5, 4095, 4096 });
PROBE(SET_USER_MEMORY_REGION, VM, .fill = fill_memory);
PROBE(SET_USER_MEMORY_REGION2, VM, .fill = fill_memory);
PROBE(GET_DIRTY_LOG, VM, .prepare = prepare_slot, .fill = fill_dirty_log);
PROBE(CLEAR_DIRTY_LOG, VM, .prepare = prepare_manual_clear, .fill = fill_clear_dirty_log);
PROBE_UNSUPPORTED(RESET_DIRTY_RINGS, VM, .by_value = true);
PROBE(SET_NR_MMU_PAGES, VM, .by_value = true, .values = { 64, 1024 });
PROBE_UNSUPPORTED(GET_NR_MMU_PAGES, VM, .by_value = true);
PROBE(SET_TSS_ADDR, VM, .by_value = true, .values = { 0xd0000, 0x10000 });
PROBE(SET_IDENTITY_MAP_ADDR, VM, .prepare = prepare_before_vcpus, .fill = fill_identity_map);
PROBE(ENABLE_CAP, VM, .prepare = prepare_before_vcpus, .fill = fill_enable_cap);
PROBE(CHECK_EXTENSION, VM, .by_value = true, .values = { KVM_CAP_NR_MEMSLOTS, KVM_CAP_IRQCHIP });
PROBE(CREATE_IRQCHIP, VM, .by_value = true, .prepare = prepare_before_vcpus);
PROBE(GET_IRQCHIP, VM, .irqchip = true, .fill = fill_irqchip);
PROBE(SET_IRQCHIP, VM, .irqchip = true, .fill = fill_irqchip);
PROBE(IRQ_LINE, VM, .irqchip = true, .fill = fill_irq_level);
PROBE(IRQ_LINE_STATUS, VM, .irqchip = true, .fill = fill_irq_level);
PROBE(SET_GSI_ROUTING, VM, .irqchip = true, .fill = fill_routing);
PROBE(SIGNAL_MSI, VM, .irqchip = true, .fill = fill_msi);
PROBE(IRQFD, VM, .irqchip = true, .fill = fill_irqfd);
PROBE(IOEVENTFD, VM, .fill = fill_ioeventfd);
PROBE(REGISTER_COALESCED_MMIO, VM, .fill = fill_coalesced);
PROBE(UNREGISTER_COALESCED_MMIO, VM, .fill = fill_coalesced);
PROBE(CREATE_PIT, VM, .irqchip = true, .by_value = true);
PROBE(CREATE_PIT2, VM, .irqchip = true);
PROBE(GET_PIT, VM, .irqchip = true, .prepare = prepare_pit, .mask = mask_pit);
PROBE(GET_PIT2, VM, .irqchip = true, .prepare = prepare_pit, .mask = mask_pit);
PROBE(SET_PIT, VM, .irqchip = true, .prepare = prepare_pit);
PROBE(SET_PIT2, VM, .irqchip = true, .prepare = prepare_pit);
PROBE(REINJECT_CONTROL, VM, .irqchip = true, .prepare = prepare_pit);
PROBE(SET_BOOT_CPU_ID, VM, .by_value = true, .prepare = prepare_before_vcpus);
PROBE(GET_CLOCK, VM, .mask = mask_clock);
PROBE(SET_CLOCK, VM, .fill = fill_clock);
PROBE(SET_TSC_KHZ, VM, .by_value = true, .values = { 1000000 }, .prepare = prepare_before_vcpus);
PROBE(GET_TSC_KHZ, VM, .by_value = true);
PROBE(CREATE_DEVICE, VM, .fill = fill_create_device);
PROBE(CREATE_GUEST_MEMFD, VM, .fill = fill_guest_memfd);
PROBE(GET_STATS_FD, VM, .by_value = true);
PROBE(XEN_HVM_CONFIG, VM, .fill = fill_xen_config);
PROBE(XEN_HVM_SET_ATTR, VM, .fill = fill_xen_attr);
PROBE(XEN_HVM_GET_ATTR, VM, .fill = fill_xen_attr);
PROBE_UNSUPPORTED(XEN_HVM_EVTCHN_SEND, VM);
PROBE(HYPERV_EVENTFD, VM, .fill = fill_hyperv_eventfd);
PROBE(X86_SET_MSR_FILTER, VM, .fill = fill_msr_filter);
PROBE(SET_PMU_EVENT_FILTER, VM, .fill = fill_pmu_filter);
PROBE_UNSUPPORTED(SET_MEMORY_ATTRIBUTES, VM);
PROBE_UNSUPPORTED(MEMORY_ENCRYPT_OP, VM);
PROBE_UNSUPPORTED(MEMORY_ENCRYPT_REG_REGION, VM, .fill = fill_enc_region);
PROBE_UNSUPPORTED(MEMORY_ENCRYPT_UNREG_REGION, VM, .fill = fill_enc_region);
PROBE_UNSUPPORTED(SET_DEVICE_ATTR, VM, .fill = fill_device_attr);
PROBE_UNSUPPORTED(GET_DEVICE_ATTR, VM, .fill = fill_device_attr, .mask = mask_tsc_offset);
PROBE_UNSUPPORTED(HAS_DEVICE_ATTR, VM, .fill = fill_device_attr);
PROBE_UNSUPPORTED(PPC_SVM_OFF, VM, .by_value = true);

/* Every capability, known or not: asked for, and enabled. */
TEST(every_capability)
{
	struct vm kvm, pvirq;

	vm_open(&kvm, KVM_DEVICE);
	vm_open(&pvirq, PVIRQ_DEVICE);
	for (unsigned int capability = 0; capability < 1024; capability++) {
		struct kvm_enable_cap cap = { .cap = capability, .args = { -1, -1, -1, -1 } };
		int ret, error;

		EXPECT_EQ(ioctl(kvm.fd, KVM_CHECK_EXTENSION, capability),
			  ioctl(pvirq.fd, KVM_CHECK_EXTENSION, capability))
			TH_LOG("capability %u", capability);
		errno = 0;
		ret = ioctl(kvm.fd, KVM_ENABLE_CAP, &cap);
		error = errno;
		errno = 0;
		EXPECT_EQ(ret, ioctl(pvirq.fd, KVM_ENABLE_CAP, &cap))
			TH_LOG("capability %u", capability);
		EXPECT_EQ(error, errno)
			TH_LOG("capability %u", capability);
	}
	vm_close(&kvm);
	vm_close(&pvirq);
}

TEST_HARNESS_MAIN
