// SPDX-License-Identifier: GPL-2.0
/* Parity of the ioctls of the device itself. */
#include <sys/ioctl.h>
#include <unistd.h>

#include "parity_harness.h"

#define MANY	256

static void fill_cpuid(struct scene *scene, void *argument)
{
	struct kvm_cpuid2 *cpuid = argument;

	cpuid->nent = MANY;
	memset(cpuid->entries, 0, MANY * sizeof(cpuid->entries[0]));
}

static void fill_msr_list(struct scene *scene, void *argument)
{
	struct kvm_msr_list *list = argument;

	list->nmsrs = MANY * 2;
}

/* The feature MSRs are those that can be read from the device. */
static void fill_feature_msrs(struct scene *scene, void *argument)
{
	struct kvm_msrs *msrs = argument;

	msrs->nmsrs = 1;
	memset(&msrs->entries[0], 0, sizeof(msrs->entries[0]));
	msrs->entries[0].index = 0x8b; /* IA32_UCODE_REV */
}

static void fill_xcomp_guest_supp(struct scene *scene, void *argument)
{
	struct kvm_device_attr *attr = argument;

	attr->attr = KVM_X86_XCOMP_GUEST_SUPP;
	attr->addr = (uintptr_t)scene->extra;
}

/* On a vCPU, this attribute is the offset of its TSC. */
static void mask_tsc_offset(struct scene *scene, void *argument)
{
	memset(scene->extra, 0, PAGE_SIZE);
}

PROBE(GET_API_VERSION, SYSTEM, .by_value = true);
PROBE(CREATE_VM, SYSTEM, .by_value = true, .values = { 0, 0, KVM_X86_SW_PROTECTED_VM, KVM_X86_SEV_VM });
PROBE(CHECK_EXTENSION, SYSTEM, .by_value = true,
      .values = { KVM_CAP_IRQCHIP, KVM_CAP_NR_VCPUS, KVM_CAP_MAX_VCPU_ID, KVM_CAP_VM_COPY_ENC_CONTEXT_FROM });
PROBE(GET_VCPU_MMAP_SIZE, SYSTEM, .by_value = true);
PROBE(GET_MSR_INDEX_LIST, SYSTEM, .fill = fill_msr_list);
PROBE(GET_MSR_FEATURE_INDEX_LIST, SYSTEM, .fill = fill_msr_list);
PROBE(GET_MSRS, SYSTEM, .fill = fill_feature_msrs);
PROBE(GET_SUPPORTED_CPUID, SYSTEM, .fill = fill_cpuid);
PROBE(GET_EMULATED_CPUID, SYSTEM, .fill = fill_cpuid);
PROBE(GET_SUPPORTED_HV_CPUID, SYSTEM, .fill = fill_cpuid);
PROBE(X86_GET_MCE_CAP_SUPPORTED, SYSTEM);
PROBE(GET_DEVICE_ATTR, SYSTEM, .fill = fill_xcomp_guest_supp, .mask = mask_tsc_offset);
PROBE(HAS_DEVICE_ATTR, SYSTEM, .fill = fill_xcomp_guest_supp);
PROBE_UNSUPPORTED(SET_DEVICE_ATTR, SYSTEM, .fill = fill_xcomp_guest_supp);
PROBE_UNSUPPORTED(S390_ENABLE_SIE, SYSTEM, .by_value = true);

/* Every capability, known or not, on the device. */
TEST(check_extension_of_every_capability)
{
	int kvm = device_open(KVM_DEVICE), pvirq = device_open(PVIRQ_DEVICE);

	for (long capability = 0; capability < 1024; capability++) {
		EXPECT_EQ(ioctl(kvm, KVM_CHECK_EXTENSION, capability),
			  ioctl(pvirq, KVM_CHECK_EXTENSION, capability))
			TH_LOG("capability %ld", capability);
	}
	close(kvm);
	close(pvirq);
}

TEST_HARNESS_MAIN
