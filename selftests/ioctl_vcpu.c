// SPDX-License-Identifier: GPL-2.0
/* Parity of the ioctls of a vCPU. */
#include <asm/kvm_para.h>
#include <sys/ioctl.h>

#include "parity_harness.h"

/* As many entries as KVM takes. */
#define KVM_MAX_CPUID_ENTRIES	256

/* Room for the state of nested virtualisation. */
#define NESTED_SIZE	0x4000

GUEST(guest_out_then_halt,
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	mov	$0x5a, %al\n"
	"	out	%al, %dx\n"
	"	hlt\n");

static void prepare_guest(struct scene *scene)
{
	vcpu_load(&scene->vm, &scene->vcpu, guest_out_then_halt);
}

/* Stops at the guest's output, so that the guest is in a known state. */
static void prepare_stopped(struct scene *scene)
{
	prepare_guest(scene);
	if (vcpu_run(&scene->vcpu) || scene->vcpu.run->exit_reason != KVM_EXIT_IO)
		die("the guest did not stop at its output");
}

static void fill_cpuid(struct scene *scene, void *argument)
{
	struct kvm_cpuid2 *cpuid = argument;

	cpuid->nent = KVM_MAX_CPUID_ENTRIES;
	if (ioctl(scene->vm.device, KVM_GET_SUPPORTED_CPUID, cpuid))
		die("KVM_GET_SUPPORTED_CPUID");
}

static void fill_old_cpuid(struct scene *scene, void *argument)
{
	struct kvm_cpuid *cpuid = argument;

	cpuid->nent = 1;
	memset(&cpuid->entries[0], 0, sizeof(cpuid->entries[0]));
}

static void fill_cpuid_room(struct scene *scene, void *argument)
{
	struct kvm_cpuid2 *cpuid = argument;

	cpuid->nent = KVM_MAX_CPUID_ENTRIES;
}

static void prepare_cpuid(struct scene *scene)
{
	static char cpuid[ARGUMENT_SIZE] __attribute__((aligned(8)));

	memset(cpuid, 0, sizeof(cpuid));
	fill_cpuid(scene, cpuid);
	if (ioctl(scene->vcpu.fd, KVM_SET_CPUID2, cpuid))
		die("KVM_SET_CPUID2");
}

/* Switches the paravirtual clock on. */
static void prepare_clock(struct scene *scene)
{
	struct {
		struct kvm_msrs header;
		struct kvm_msr_entry entry;
	} msrs = {
		.header.nmsrs = 1,
		.entry = { .index = MSR_KVM_SYSTEM_TIME_NEW, .data = GUEST_DATA | 1 },
	};

	prepare_cpuid(scene);
	if (ioctl(scene->vcpu.fd, KVM_SET_MSRS, &msrs) != 1)
		die("MSR_KVM_SYSTEM_TIME_NEW");
}

static void fill_msrs(struct scene *scene, void *argument)
{
	/* IA32_SYSENTER_CS, IA32_PAT, EFER, and one that does not exist. */
	static const uint32_t indices[] = { 0x174, 0x277, 0xc0000080, 0x12345678 };
	struct kvm_msrs *msrs = argument;

	msrs->nmsrs = ARRAY_SIZE(indices);
	for (unsigned int i = 0; i < ARRAY_SIZE(indices); i++) {
		memset(&msrs->entries[i], 0, sizeof(msrs->entries[i]));
		msrs->entries[i].index = indices[i];
	}
}

static void fill_translation(struct scene *scene, void *argument)
{
	struct kvm_translation *translation = argument;

	translation->linear_address = GUEST_CODE;
}

static void fill_interrupt(struct scene *scene, void *argument)
{
	struct kvm_interrupt *interrupt = argument;

	interrupt->irq = 0x20;
}

static void fill_signal_mask(struct scene *scene, void *argument)
{
	struct kvm_signal_mask *mask = argument;

	/* The kernel's own sigset. */
	mask->len = 8;
	memset(mask->sigset, 0, 8);
}

static void fill_debug(struct scene *scene, void *argument)
{
	struct kvm_guest_debug *debug = argument;

	debug->control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
}

static void fill_mce_cap(struct scene *scene, void *argument)
{
	*(uint64_t *)argument = 1;
}

static void fill_mce(struct scene *scene, void *argument)
{
	struct kvm_x86_mce *mce = argument;

	mce->status = 1ULL << 63; /* valid */
}

static void prepare_mce(struct scene *scene)
{
	uint64_t cap = 1;

	if (ioctl(scene->vcpu.fd, KVM_X86_SETUP_MCE, &cap))
		die("KVM_X86_SETUP_MCE");
}

static void fill_enable_cap(struct scene *scene, void *argument)
{
	struct kvm_enable_cap *cap = argument;

	cap->cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID;
	cap->args[0] = 1;
}

static void fill_nested_room(struct scene *scene, void *argument)
{
	struct kvm_nested_state *nested = argument;

	nested->size = NESTED_SIZE;
}

static void fill_nested(struct scene *scene, void *argument)
{
	fill_nested_room(scene, argument);
	if (ioctl(scene->vcpu.fd, KVM_GET_NESTED_STATE, argument))
		die("KVM_GET_NESTED_STATE");
}

static void fill_prefault(struct scene *scene, void *argument)
{
	struct kvm_pre_fault_memory *range = argument;

	range->gpa = 0;
	range->size = GUEST_MEMORY;
}

/* The timer's current count. */
static void mask_lapic(struct scene *scene, void *argument)
{
	struct kvm_lapic_state *lapic = argument;

	memset(lapic->regs + 0x390, 0, sizeof(uint32_t));
}

static void fill_tsc_offset(struct scene *scene, void *argument)
{
	struct kvm_device_attr *attr = argument;

	attr->group = KVM_VCPU_TSC_CTRL;
	attr->attr = KVM_VCPU_TSC_OFFSET;
	attr->addr = (uintptr_t)scene->extra;
}

static void mask_tsc_offset(struct scene *scene, void *argument)
{
	memset(scene->extra, 0, PAGE_SIZE);
}

static void fill_tpr_access(struct scene *scene, void *argument)
{
	struct kvm_tpr_access_ctl *control = argument;

	control->enabled = 1;
}

static void fill_vapic(struct scene *scene, void *argument)
{
	struct kvm_vapic_addr *vapic = argument;

	vapic->vapic_addr = GUEST_DATA;
}

static void fill_xen_attr(struct scene *scene, void *argument)
{
	struct kvm_xen_vcpu_attr *attr = argument;

	attr->type = KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO;
	attr->u.gpa = KVM_XEN_INVALID_GPA;
}

static void fill_one_reg(struct scene *scene, void *argument)
{
	struct kvm_one_reg *reg = argument;

	reg->id = KVM_X86_REG_MSR(0xc0000080); /* EFER */
	reg->addr = (uintptr_t)scene->extra;
}

static void fill_reg_list(struct scene *scene, void *argument)
{
	struct kvm_reg_list *list = argument;

	list->n = 16;
}

PROBE(RUN, VCPU, .by_value = true, .values = { 0, 0, 0 }, .prepare = prepare_guest);
PROBE(GET_REGS, VCPU, .prepare = prepare_stopped);
PROBE(SET_REGS, VCPU, .get = KVM_GET_REGS);
PROBE(GET_SREGS, VCPU, .prepare = prepare_stopped);
PROBE(SET_SREGS, VCPU, .get = KVM_GET_SREGS);
PROBE(GET_SREGS2, VCPU, .prepare = prepare_stopped);
PROBE(SET_SREGS2, VCPU, .get = KVM_GET_SREGS2);
PROBE(TRANSLATE, VCPU, .fill = fill_translation);
PROBE(INTERRUPT, VCPU, .fill = fill_interrupt);
PROBE(GET_MSRS, VCPU, .fill = fill_msrs);
PROBE(SET_MSRS, VCPU, .fill = fill_msrs);
PROBE(SET_CPUID, VCPU, .fill = fill_old_cpuid);
PROBE(SET_CPUID2, VCPU, .fill = fill_cpuid);
PROBE(GET_CPUID2, VCPU, .prepare = prepare_cpuid, .fill = fill_cpuid_room);
PROBE(SET_SIGNAL_MASK, VCPU, .fill = fill_signal_mask);
PROBE(GET_FPU, VCPU);
PROBE(SET_FPU, VCPU, .get = KVM_GET_FPU);
PROBE(GET_LAPIC, VCPU, .irqchip = true, .mask = mask_lapic);
PROBE(SET_LAPIC, VCPU, .irqchip = true, .get = KVM_GET_LAPIC, .mask = mask_lapic);
PROBE(TPR_ACCESS_REPORTING, VCPU, .irqchip = true, .fill = fill_tpr_access);
PROBE(SET_VAPIC_ADDR, VCPU, .irqchip = true, .fill = fill_vapic);
PROBE(GET_MP_STATE, VCPU, .irqchip = true);
PROBE(SET_MP_STATE, VCPU, .irqchip = true, .get = KVM_GET_MP_STATE);
PROBE(NMI, VCPU, .by_value = true);
PROBE(SMI, VCPU, .by_value = true);
PROBE(SET_GUEST_DEBUG, VCPU, .fill = fill_debug);
PROBE(X86_SETUP_MCE, VCPU, .fill = fill_mce_cap);
PROBE(X86_SET_MCE, VCPU, .prepare = prepare_mce, .fill = fill_mce);
PROBE(GET_VCPU_EVENTS, VCPU);
PROBE(SET_VCPU_EVENTS, VCPU, .get = KVM_GET_VCPU_EVENTS);
PROBE(GET_DEBUGREGS, VCPU);
PROBE(SET_DEBUGREGS, VCPU, .get = KVM_GET_DEBUGREGS);
PROBE(ENABLE_CAP, VCPU, .fill = fill_enable_cap);
PROBE(GET_XSAVE, VCPU);
PROBE(GET_XSAVE2, VCPU);
PROBE(SET_XSAVE, VCPU, .get = KVM_GET_XSAVE);
PROBE(GET_XCRS, VCPU);
PROBE(SET_XCRS, VCPU, .get = KVM_GET_XCRS);
PROBE(KVMCLOCK_CTRL, VCPU, .by_value = true, .prepare = prepare_clock);
PROBE(SET_TSC_KHZ, VCPU, .by_value = true, .values = { 0, 1000000 });
PROBE(GET_TSC_KHZ, VCPU, .by_value = true);
PROBE(GET_NESTED_STATE, VCPU, .prepare = prepare_cpuid, .fill = fill_nested_room);
PROBE(SET_NESTED_STATE, VCPU, .prepare = prepare_cpuid, .fill = fill_nested);
PROBE(GET_SUPPORTED_HV_CPUID, VCPU, .fill = fill_cpuid_room);
PROBE(PRE_FAULT_MEMORY, VCPU, .fill = fill_prefault);
PROBE(GET_STATS_FD, VCPU, .by_value = true);
PROBE(XEN_VCPU_SET_ATTR, VCPU, .fill = fill_xen_attr);
PROBE(XEN_VCPU_GET_ATTR, VCPU, .fill = fill_xen_attr);
PROBE(GET_ONE_REG, VCPU, .fill = fill_one_reg);
PROBE(SET_ONE_REG, VCPU, .fill = fill_one_reg);
PROBE(GET_REG_LIST, VCPU, .fill = fill_reg_list);
PROBE(HAS_DEVICE_ATTR, VCPU, .fill = fill_tsc_offset);
PROBE(GET_DEVICE_ATTR, VCPU, .fill = fill_tsc_offset, .mask = mask_tsc_offset);
PROBE(SET_DEVICE_ATTR, VCPU, .fill = fill_tsc_offset);
PROBE_UNSUPPORTED(MEMORY_ENCRYPT_OP, VCPU);
PROBE_UNSUPPORTED(DIRTY_TLB, VCPU);
PROBE_UNSUPPORTED(S390_INITIAL_RESET, VCPU, .by_value = true);

TEST_HARNESS_MAIN
