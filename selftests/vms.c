// SPDX-License-Identifier: GPL-2.0
/* Several VMs, many vCPUs, and VMs that are another call's argument. */
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "harness.h"
#include "vm.h"

#define VCPUS	64
#define CYCLES	repeats(50)

/* Writes the word in memory to the port. */
GUEST(guest_show_memory,
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"1:	mov	" STR(GUEST_DATA) ", %eax\n"
	"	out	%eax, %dx\n"
	"	jmp	1b\n");

/* Writes BX to the port, and increments it. */
GUEST(guest_show_register,
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"1:	mov	%bx, %ax\n"
	"	out	%ax, %dx\n"
	"	inc	%bx\n"
	"	jmp	1b\n");

FIXTURE(vms)
{
	int fds;
	int files;
};

ON_BOTH_DEVICES(vms);

FIXTURE_SETUP(vms)
{
	if (is_overlay(variant->device))
		/* Those of other tests are gone. */
		EXPECT_VMS(0, 0);
	self->fds = fd_count();
	self->files = file_references();
}

/* Nothing is left of the VMs. */
FIXTURE_TEARDOWN(vms)
{
	EXPECT_EQ(self->fds, fd_count());
	EXPECT_FILES(self->files);
	if (is_overlay(variant->device))
		EXPECT_VMS(0, 0);
}

TEST_F(vms, two_at_once)
{
	struct vcpu vcpus[2];
	struct vm vms[2];

	for (int i = 0; i < 2; i++) {
		vm_open(&vms[i], variant->device);
		vcpu_open(&vms[i], &vcpus[i], 0);
		vcpu_load(&vms[i], &vcpus[i], guest_show_memory);
	}
	for (uint32_t round = 0; round < 100; round++)
		for (int i = 0; i < 2; i++) {
			uint32_t value = round * 2 + i;

			vm_write(&vms[i], GUEST_DATA, &value, sizeof(value));
			ASSERT_EQ(0, vcpu_run(&vcpus[i]));
			ASSERT_EQ(KVM_EXIT_IO, vcpus[i].run->exit_reason);
			ASSERT_EQ(value, *(uint32_t *)vcpu_io_data(&vcpus[i]));
		}
	for (int i = 0; i < 2; i++) {
		vcpu_close(&vcpus[i]);
		vm_close(&vms[i]);
	}
}

TEST_F(vms, many_vcpus)
{
	struct vcpu vcpus[VCPUS];
	struct vm vm;

	vm_open(&vm, variant->device);
	for (unsigned int i = 0; i < VCPUS; i++) {
		struct kvm_regs regs;

		vcpu_open(&vm, &vcpus[i], i);
		vcpu_load(&vm, &vcpus[i], guest_show_register);
		ASSERT_EQ(0, ioctl(vcpus[i].fd, KVM_GET_REGS, &regs));
		regs.rbx = i * 100;
		ASSERT_EQ(0, ioctl(vcpus[i].fd, KVM_SET_REGS, &regs));
	}
	for (unsigned int round = 0; round < 10; round++)
		for (unsigned int i = 0; i < VCPUS; i++) {
			ASSERT_EQ(0, vcpu_run(&vcpus[i]));
			ASSERT_EQ(KVM_EXIT_IO, vcpus[i].run->exit_reason);
			ASSERT_EQ(i * 100 + round, *(uint16_t *)vcpu_io_data(&vcpus[i]));
		}
	for (unsigned int i = 0; i < VCPUS; i++)
		vcpu_close(&vcpus[i]);
	vm_close(&vm);
}

TEST_F(vms, many_times)
{
	for (int i = 0; i < CYCLES; i++) {
		struct vcpu vcpus[2];
		struct vm vm;

		vm_open(&vm, variant->device);
		for (unsigned int j = 0; j < ARRAY_SIZE(vcpus); j++) {
			vcpu_open(&vm, &vcpus[j], j);
			vcpu_load(&vm, &vcpus[j], guest_show_register);
			ASSERT_EQ(0, vcpu_run(&vcpus[j]));
		}
		if (is_overlay(variant->device))
			EXPECT_VMS(1, 2);
		for (unsigned int j = 0; j < ARRAY_SIZE(vcpus); j++)
			vcpu_close(&vcpus[j]);
		vm_close(&vm);
	}
}

/*
 * Two capabilities take a VM's descriptor in their argument. Where the CPU has
 * no SEV they always fail, but they fail alike, and leave the descriptor as it
 * was.
 */
FIXTURE(enc_context)
{
	struct vm kvm, pvirq;
	struct vm kvm_source, pvirq_source;
	struct vcpu vcpu;
	int event;
};

FIXTURE_VARIANT(enc_context)
{
	unsigned int cap;
};

FIXTURE_VARIANT_ADD(enc_context, copy)
{
	.cap = KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
};

FIXTURE_VARIANT_ADD(enc_context, move)
{
	.cap = KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
};

FIXTURE_SETUP(enc_context)
{
	vm_open(&self->kvm, KVM_DEVICE);
	vm_open(&self->pvirq, PVIRQ_DEVICE);
	vm_open(&self->kvm_source, KVM_DEVICE);
	vm_open(&self->pvirq_source, PVIRQ_DEVICE);
	vcpu_open(&self->pvirq_source, &self->vcpu, 0);
	self->event = eventfd(0, EFD_CLOEXEC);
	ASSERT_LE(0, self->event);
}

FIXTURE_TEARDOWN(enc_context)
{
	close(self->event);
	vcpu_close(&self->vcpu);
	vm_close(&self->pvirq_source);
	vm_close(&self->kvm_source);
	vm_close(&self->pvirq);
	vm_close(&self->kvm);
}

static int enable_from(struct vm *vm, unsigned int cap, uint64_t fd)
{
	struct kvm_enable_cap enable = { .cap = cap, .args = { fd } };

	return ioctl(vm->fd, KVM_ENABLE_CAP, &enable) ? errno : 0;
}

TEST_F(enc_context, parity)
{
	int closed = dup(self->event);
	struct {
		const char *what;
		uint64_t kvm, pvirq;
	} sources[] = {
		{ "a VM", self->kvm_source.fd, self->pvirq_source.fd },
		{ "a VM of the other device", self->kvm_source.fd, self->kvm_source.fd },
		{ "itself", self->kvm.fd, self->pvirq.fd },
		{ "with high bits", 1ULL << 32 | self->kvm_source.fd, 1ULL << 32 | self->pvirq_source.fd },
		{ "a vCPU", self->vcpu.fd, self->vcpu.fd },
		{ "the device", self->kvm.device, self->pvirq.device },
		{ "an eventfd", self->event, self->event },
		{ "closed", closed, closed },
		{ "no descriptor", -1, -1 },
	};

	close(closed);
	for (unsigned int i = 0; i < ARRAY_SIZE(sources); i++) {
		EXPECT_EQ(enable_from(&self->kvm, variant->cap, sources[i].kvm),
			  enable_from(&self->pvirq, variant->cap, sources[i].pvirq))
			TH_LOG("%s", sources[i].what);
	}
}

TEST_F(enc_context, source_is_unchanged)
{
	char name[64], runs[32];
	int vcpu;

	EXPECT_NE(0, enable_from(&self->pvirq, variant->cap, self->pvirq_source.fd));
	EXPECT_STREQ("anon_inode:kvm-vm", fd_name(self->pvirq_source.fd, name, sizeof(name)));
	EXPECT_EQ(FD_CLOEXEC, fcntl(self->pvirq_source.fd, F_GETFD));
	vcpu = ioctl(self->pvirq_source.fd, KVM_CREATE_VCPU, 1);
	ASSERT_LE(0, vcpu);
	EXPECT_EQ(is_overlay(PVIRQ_DEVICE), !!fdinfo(vcpu, "pvirq-runs", runs, sizeof(runs)));
	close(vcpu);
}

TEST_HARNESS_MAIN
