// SPDX-License-Identifier: GPL-2.0
/*
 * Interrupts from eventfds by way of sinks: whatever KVM's irqfd can deliver, and that the guest sees what it would see
 * if the irqfd had the source itself.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "harness.h"
#include "injection.h"

#define PIC_PIN		5
#define PIC_BASE	0x20
#define IOAPIC_PIN	20
#define LEVEL_VECTOR	0x4a
#define MSI_GSI		24
#define NMI_GSI		25
#define NMI_VECTOR	2
/* What the guest has seen, by vector. */
#define SEEN		(GUEST_DATA + 0x100)
/* Where a handler is that needs more room than most. */
#define LEVEL_HANDLER	0x3000
#define LAPIC_EOI	0xfee000b0

/* Handlers that count. Only the local APIC waits for an EOI. */
GUEST(handler_pic,
	"	incl	" STR(GUEST_DATA) " + 0x100 + 4 * 0x25\n"
	"	iret\n");
GUEST(handler_nmi,
	"	incl	" STR(GUEST_DATA) " + 0x100 + 4 * 2\n"
	"	iret\n");
/* A handler that says so before it ends the interrupt, and after that. */
GUEST(handler_level,
	"	push	%ax\n"
	"	push	%dx\n"
	"	push	%ebx\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	mov	$0x77, %al\n"
	"	out	%al, %dx\n"
	"	mov	$" STR(LAPIC_EOI) ", %ebx\n"
	"	movl	$0, (%ebx)\n"
	"	mov	$0x78, %al\n"
	"	out	%al, %dx\n"
	"	pop	%ebx\n"
	"	pop	%dx\n"
	"	pop	%ax\n"
	"	iret\n");

FIXTURE(sink)
{
	struct vm vm;
	struct vcpu vcpu;
	struct runner runner;
	/* What is signalled. */
	int source;
	/* What KVM's irqfd has: the source, or the sink that it is bound to. */
	int irqfd;
	int resample;
};

FIXTURE_VARIANT(sink)
{
	/* None: KVM's irqfd has the source, which is what the others are measured by. */
	int bottom_half;
};

FIXTURE_VARIANT_ADD(sink, irqfd)
{
	.bottom_half = -1,
};

FIXTURE_VARIANT_ADD(sink, tasklet)
{
	.bottom_half = PVIRQ_BOTTOM_HALF_TASKLET,
};

FIXTURE_VARIANT_ADD(sink, workqueue)
{
	.bottom_half = PVIRQ_BOTTOM_HALF_WORKQUEUE,
};

/* Lets interrupts of the first 8259A through, at PIC_BASE, and ended by themselves. */
static void pic_enable(struct vm *vm)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_PIC_MASTER };

	if (ioctl(vm->fd, KVM_GET_IRQCHIP, &chip))
		die("KVM_GET_IRQCHIP");
	chip.chip.pic.irq_base = PIC_BASE;
	chip.chip.pic.imr = 0;
	chip.chip.pic.auto_eoi = 1;
	chip.chip.pic.init4 = 1;
	if (ioctl(vm->fd, KVM_SET_IRQCHIP, &chip))
		die("KVM_SET_IRQCHIP");
}

/* Lets the local APIC hand on what the 8259A has. */
static void lint0_enable(struct vcpu *vcpu)
{
	const uint32_t extint = 7 << 8;
	struct kvm_lapic_state lapic;

	if (ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic))
		die("KVM_GET_LAPIC");
	memcpy(lapic.regs + 0x350, &extint, sizeof(extint));
	if (ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic))
		die("KVM_SET_LAPIC");
}

/* Makes a pin of the IOAPIC level-triggered. */
static void ioapic_enable(struct vm *vm)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	if (ioctl(vm->fd, KVM_GET_IRQCHIP, &chip))
		die("KVM_GET_IRQCHIP");
	chip.chip.ioapic.redirtbl[IOAPIC_PIN].bits = LEVEL_VECTOR | 1 << 15;
	if (ioctl(vm->fd, KVM_SET_IRQCHIP, &chip))
		die("KVM_SET_IRQCHIP");
}

/* Routes two more GSIs, to a vector and to the NMI of vCPU 0. */
static void route_msis(struct vm *vm)
{
	struct kvm_irq_routing *routing = calloc(1, sizeof(*routing) + 4 * sizeof(routing->entries[0]));

	routing->nr = 4;
	routing->entries[0] = (struct kvm_irq_routing_entry){
		.gsi = PIC_PIN, .type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = KVM_IRQCHIP_PIC_MASTER, .pin = PIC_PIN },
	};
	routing->entries[1] = (struct kvm_irq_routing_entry){
		.gsi = IOAPIC_PIN, .type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = IOAPIC_PIN },
	};
	routing->entries[2] = (struct kvm_irq_routing_entry){
		.gsi = MSI_GSI, .type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = 0xfee00000, .data = VECTOR },
	};
	routing->entries[3] = (struct kvm_irq_routing_entry){
		.gsi = NMI_GSI, .type = KVM_IRQ_ROUTING_MSI,
		.u.msi = { .address_lo = 0xfee00000, .data = 4 << 8 },
	};
	if (ioctl(vm->fd, KVM_SET_GSI_ROUTING, routing))
		die("KVM_SET_GSI_ROUTING");
	free(routing);
}

/* Lets the guest write anywhere below 4 GiB, in real mode. */
static void lift_limit(struct vcpu *vcpu)
{
	struct kvm_sregs sregs;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		die("KVM_GET_SREGS");
	sregs.ds.limit = ~0U;
	sregs.ds.g = 1;
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs))
		die("KVM_SET_SREGS");
}

FIXTURE_SETUP(sink)
{
	uint16_t level_entry[2] = { LEVEL_HANDLER, 0 };

	posting_open(&self->vm, &self->vcpu);
	vm_set_handler(&self->vm, PIC_BASE + PIC_PIN, handler_pic);
	vm_set_handler(&self->vm, NMI_VECTOR, handler_nmi);
	vm_write(&self->vm, LEVEL_HANDLER, handler_level, handler_level_end - handler_level);
	vm_write(&self->vm, LEVEL_VECTOR * sizeof(level_entry), level_entry, sizeof(level_entry));
	pic_enable(&self->vm);
	lint0_enable(&self->vcpu);
	ioapic_enable(&self->vm);
	route_msis(&self->vm);
	lift_limit(&self->vcpu);

	self->source = eventfd_open();
	self->resample = eventfd_open();
	self->irqfd = variant->bottom_half < 0 ? dup(self->source) : eventfd_open();
	if (variant->bottom_half >= 0) {
		struct pvirq_bind bind = TO_SINK(self->source, self->irqfd);

		bind.bottom_half = variant->bottom_half;
		ASSERT_EQ(0, try_bind(&self->vm, bind));
	}
	LOAD(guest_wait);
	pin(1);
}

FIXTURE_TEARDOWN(sink)
{
	if (self->runner.vcpu && is_running(&self->runner))
		runner_stop(&self->runner);
	close(self->source);
	close(self->irqfd);
	close(self->resample);
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

static uint32_t seen(struct vm *vm, unsigned int vector)
{
	return *(volatile uint32_t *)(vm->memory + SEEN + 4 * vector);
}

/* Signals the source so often that the guest sees `vector` ROUNDS times, one by one. */
#define ROUNDS	repeats(100)
#define EXPECT_EACH_SEEN(vector)						\
	do {									\
		runner_start(&self->runner, &self->vcpu);			\
		ASSERT_TRUE(eventually(guest_counter(&self->vm)));		\
		for (int _i = 1; _i <= ROUNDS; _i++) {				\
			eventfd_signal(self->source);				\
			ASSERT_TRUE(eventually(seen(&self->vm, vector) == _i))	\
				TH_LOG("round %d: seen %u times", _i, seen(&self->vm, vector));	\
		}								\
		EXPECT_EQ(-EINTR, runner_stop(&self->runner));			\
		EXPECT_EQ(ROUNDS, seen(&self->vm, vector));			\
	} while (0)

/* Waits until what was signalled has been delivered for. */
#define EXPECT_DELIVERED()							\
	do {									\
		struct pvirq_source _counters;					\
										\
		EXPECT_TRUE(variant->bottom_half < 0 ||				\
			    eventually((_counters = source_counters(&self->vm, self->source),	\
					_counters.queued == _counters.delivered)));	\
	} while (0)

TEST_F(sink, pic_pin)
{
	ASSERT_EQ(0, try_irqfd(&self->vm, self->irqfd, PIC_PIN, 0));
	EXPECT_EACH_SEEN(PIC_BASE + PIC_PIN);
}

TEST_F(sink, nmi)
{
	ASSERT_EQ(0, try_irqfd(&self->vm, self->irqfd, NMI_GSI, 0));
	EXPECT_EACH_SEEN(NMI_VECTOR);
}

TEST_F(sink, msi)
{
	ASSERT_EQ(0, try_irqfd(&self->vm, self->irqfd, MSI_GSI, 0));
	for (int i = 0; i < ROUNDS; i++) {
		runner_start(&self->runner, &self->vcpu);
		eventfd_signal(self->source);
		ASSERT_EQ(0, runner_wait(&self->runner));
		ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);
		ASSERT_EQ(0x77, *(uint8_t *)vcpu_io_data(&self->vcpu));
		vcpu_end_interrupts(&self->vcpu);
	}
}

TEST_F(sink, level_with_resample)
{
	struct kvm_irqfd irqfd = {
		.fd = self->irqfd, .gsi = IOAPIC_PIN,
		.flags = KVM_IRQFD_FLAG_RESAMPLE, .resamplefd = self->resample,
	};
	struct pollfd resampled = { .fd = self->resample, .events = POLLIN };

	ASSERT_EQ(0, ioctl(self->vm.fd, KVM_IRQFD, &irqfd));
	for (int i = 0; i < ROUNDS; i++) {
		eventfd_signal(self->source);
		EXPECT_HANDLED(0x77);
		/* The pin is asserted until the guest has ended the interrupt. */
		EXPECT_EQ(0, eventfd_take(self->resample));
		if (i % 2)
			eventfd_signal(self->source);
		EXPECT_DELIVERED();
		EXPECT_HANDLED(0x78);
		ASSERT_EQ(1, poll(&resampled, 1, PATIENCE * 1000));
		EXPECT_EQ(1, eventfd_take(self->resample));
	}
}

/* In service when the next signal comes: another delivery, and only one for many signals. */
TEST_F(sink, signals_during_service)
{
	unsigned long counter;

	ASSERT_EQ(0, try_irqfd(&self->vm, self->irqfd, MSI_GSI, 0));
	eventfd_signal(self->source);
	EXPECT_HANDLED(0x77);
	for (int i = 0; i < 5; i++)
		eventfd_signal(self->source);
	EXPECT_DELIVERED();
	vcpu_end_interrupts(&self->vcpu);
	EXPECT_HANDLED(0x77);
	vcpu_end_interrupts(&self->vcpu);
	counter = guest_counter(&self->vm);
	runner_start(&self->runner, &self->vcpu);
	ASSERT_TRUE(eventually(guest_counter(&self->vm) != counter));
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
}

/* A masked vector stays pending, and is not lost. */
TEST_F(sink, masked_vectors_stay_pending)
{
	struct kvm_regs regs = { .rip = GUEST_CODE + 1, .rsp = GUEST_STACK, .rflags = 2 };

	ASSERT_EQ(0, try_irqfd(&self->vm, self->irqfd, MSI_GSI, 0));
	/* Behind the guest's STI. */
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_REGS, &regs));
	eventfd_signal(self->source);
	runner_start(&self->runner, &self->vcpu);
	ASSERT_TRUE(eventually(guest_counter(&self->vm) > 1000));
	EXPECT_EQ(-EINTR, runner_stop(&self->runner));
	regs.rip = GUEST_CODE;
	ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_SET_REGS, &regs));
	EXPECT_HANDLED(0x77);
}

TEST_HARNESS_MAIN
