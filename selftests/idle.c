// SPDX-License-Identifier: GPL-2.0
/* The idle call: what ends it, what it says of that, and how long it may take. */
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "harness.h"
#include "posting.h"

#define NMI	2
#define ROUNDS	repeats(50)
/* How many of them have to go as they are meant to, on however busy a machine. */
#define SOME	((ROUNDS + 9) / 10)
#define MS	1000000
/* As long as can be, for tests that have to catch a vCPU at it. */
#define LONG	PVIRQ_POLL_MAX_NS

#define COMMAND_PORT	0xb90
_Static_assert(COMMAND_PORT == PVIRQ_PORT_BASE + PVIRQ_REG_COMMAND, "the assembler cannot see macros' sums");
#define IDLE_END	0xc04c
_Static_assert(IDLE_END == DESCRIPTORS + offsetof(struct pvirq_descriptor, idle_end), "as above");

/* Makes the idle call, and then writes 0x55 to the port. Interrupts are on in the call only. */
GUEST(guest_idle,
	"1:	mov	$" STR(COMMAND_PORT) ", %dx\n"
	"	mov	$3, %eax\n"
	"	sti\n"
	"	out	%eax, %dx\n"
	"	cli\n"
	"	mov	$" STR(GUEST_PORT) ", %dx\n"
	"	mov	$0x55, %al\n"
	"	out	%al, %dx\n"
	"	jmp	1b\n");
/* Makes the idle call and halts, as an operating system does that has nothing else to do. */
GUEST(guest_idle_halt,
	"1:	mov	$" STR(COMMAND_PORT) ", %dx\n"
	"	mov	$3, %eax\n"
	"	sti\n"
	"	out	%eax, %dx\n"
	"	cli\n"
	"	cmpl	$1, " STR(IDLE_END) "\n"
	"	je	1b\n"
	"	cmpl	$2, " STR(IDLE_END) "\n"
	"	je	1b\n"
	"	sti\n"
	"	hlt\n"
	"	jmp	1b\n");

FIXTURE(idle)
{
	struct vm vm;
	struct vcpu vcpu;
	volatile struct pvirq_descriptor *descriptor;
	struct runner runner;
};

FIXTURE_SETUP(idle)
{
	posting_open(&self->vm, &self->vcpu);
	vm_set_handler(&self->vm, NMI, guest_handler_out);
	self->descriptor = descriptor(&self->vm, 0);
	/* The vCPU is going to have CPU 0 for itself. */
	pin(1);
}

FIXTURE_TEARDOWN(idle)
{
	vcpu_close(&self->vcpu);
	vm_close(&self->vm);
}

#define REGISTER()	\
	ASSERT_EQ(PVIRQ_STATUS_OK, guest_register(&self->vm, &self->vcpu, DESCRIPTORS, 1))

/* Expects that the guest writes a byte to its port when the thread, or this one, runs it. */
#define EXPECT_BYTE(byte, result)						\
	do {									\
		ASSERT_EQ(0, result);						\
		ASSERT_EQ(KVM_EXIT_IO, self->vcpu.run->exit_reason);		\
		ASSERT_EQ(byte, *(uint8_t *)vcpu_io_data(&self->vcpu));		\
	} while (0)

static struct pvirq_poll poll_of(uint32_t host_ns, uint32_t budget, uint32_t policy)
{
	return (struct pvirq_poll){
		.size = sizeof(struct pvirq_poll),
		.host_poll_ns = host_ns,
		.budget = budget,
		.policy = policy,
	};
}

static void set_poll(struct vm *vm, uint32_t host_ns, uint32_t budget, uint32_t policy)
{
	struct pvirq_poll poll = poll_of(host_ns, budget, policy);

	if (ioctl(vm->fd, PVIRQ_SET_POLL, &poll))
		die("PVIRQ_SET_POLL");
}

static uint32_t idle_end(volatile struct pvirq_descriptor *descriptor)
{
	return __atomic_load_n(&descriptor->idle_end, __ATOMIC_SEQ_CST);
}

TEST_F(idle, is_announced)
{
	EXPECT_TRUE(guest_read(&self->vm, &self->vcpu, PVIRQ_REG_FEATURES) & PVIRQ_FEATURE_IDLE);
}

TEST_F(idle, takes_a_descriptor)
{
	EXPECT_EQ(PVIRQ_STATUS_NOT_REGISTERED, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_IDLE));
	EXPECT_EQ(PVIRQ_STATUS_UNSUPPORTED, guest_command(&self->vm, &self->vcpu, 1 << 16 | PVIRQ_COMMAND_IDLE));
	REGISTER();
	/* So that it makes one. */
	EXPECT_NE(0, self->descriptor->host_poll_ns);
	EXPECT_EQ(PVIRQ_STATUS_OK, guest_command(&self->vm, &self->vcpu, PVIRQ_COMMAND_IDLE));
	EXPECT_EQ(1, STATISTIC("idle-calls"));
}

TEST_F(idle, expires)
{
	uint64_t start = 0;
	long polled = 0;

	REGISTER();
	set_poll(&self->vm, 5 * MS, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	/* Some task of the kernel's may want the CPU, but not every time. */
	for (int i = 0; i < ROUNDS; i++) {
		self->descriptor->idle_end = PVIRQ_IDLE_EVENT;
		polled = STATISTIC("polled-ns");
		start = now();
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
		if (idle_end(self->descriptor) != PVIRQ_IDLE_CONTENDED)
			break;
	}
	EXPECT_EQ(PVIRQ_IDLE_EXPIRED, idle_end(self->descriptor));
	EXPECT_LE(5 * MS, now() - start);
	EXPECT_EQ(5 * MS, self->descriptor->host_poll_ns);
	EXPECT_EQ(PVIRQ_HOST_OUTSIDE, host_state(self->descriptor));
	EXPECT_LE(5 * MS, STATISTIC("polled-ns") - polled);
}

/*
 * Has somebody do something to a vCPU that polls, again and again. It may have
 * polled for long enough just then, if this machine is busy, but not always.
 */
#define WHILE_POLLING(disturb, end, hits)					\
	do {									\
		REGISTER();							\
		set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);		\
		LOAD(guest_idle);						\
		for (int _i = 0; _i < ROUNDS; _i++) {				\
			runner_start(&self->runner, &self->vcpu);		\
			if (!eventually(host_state(self->descriptor) == PVIRQ_HOST_POLLING ||	\
					!is_running(&self->runner)))		\
				die("the vCPU neither polls nor comes back");	\
			disturb;						\
			ASSERT_EQ(0, runner_wait(&self->runner));		\
			if (*(uint8_t *)vcpu_io_data(&self->vcpu) == 0x55)	\
				EXPECT_BYTE(0x77, vcpu_run(&self->vcpu));	\
			hits += idle_end(self->descriptor) == end;		\
			vcpu_end_interrupts(&self->vcpu);			\
			/* Back to the call. */					\
			EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));		\
		}								\
		EXPECT_LE(SOME, hits);					\
	} while (0)

TEST_F(idle, ends_by_a_post)
{
	int hits = 0;

	WHILE_POLLING(post(self->descriptor, VECTOR), PVIRQ_IDLE_POSTED, hits);
	EXPECT_EQ(ROUNDS, STATISTIC("injected"));
	EXPECT_LE(SOME, STATISTIC("idle-posted"));
}

static void signal_msi(struct vm *vm)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = VECTOR };

	if (ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) != 1)
		die("KVM_SIGNAL_MSI");
}

TEST_F(idle, ends_by_a_message)
{
	int hits = 0;

	WHILE_POLLING(signal_msi(&self->vm), PVIRQ_IDLE_EVENT, hits);
	EXPECT_LE(SOME, STATISTIC("idle-events"));
}

TEST_F(idle, ends_by_an_nmi)
{
	int hits = 0;

	WHILE_POLLING(ASSERT_EQ(0, ioctl(self->vcpu.fd, KVM_NMI)), PVIRQ_IDLE_EVENT, hits);
}

static void lapic_set(struct kvm_lapic_state *lapic, unsigned int reg, uint32_t value)
{
	memcpy(lapic->regs + reg, &value, sizeof(value));
}

/* Starts the vCPU's timer, or stops it if the time is 0. */
static void set_timer(struct vcpu *vcpu, uint32_t ns)
{
	struct kvm_lapic_state lapic;

	if (ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic))
		die("KVM_GET_LAPIC");
	lapic_set(&lapic, 0x320, VECTOR);
	/* The clock of the bus, 1 ns, undivided. */
	lapic_set(&lapic, 0x3e0, 0xb);
	lapic_set(&lapic, 0x380, ns);
	/* What is left of it, by which KVM goes. */
	lapic_set(&lapic, 0x390, ns);
	if (ioctl(vcpu->fd, KVM_SET_LAPIC, &lapic))
		die("KVM_SET_LAPIC");
}

TEST_F(idle, ends_by_the_timer)
{
	int hits = 0;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	for (int i = 0; i < ROUNDS; i++) {
		set_timer(&self->vcpu, 5 * MS);
		ASSERT_EQ(0, vcpu_run(&self->vcpu));
		if (*(uint8_t *)vcpu_io_data(&self->vcpu) == 0x55)
			EXPECT_BYTE(0x77, vcpu_run(&self->vcpu));
		hits += idle_end(self->descriptor) == PVIRQ_IDLE_EVENT;
		set_timer(&self->vcpu, 0);
		vcpu_end_interrupts(&self->vcpu);
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
	}
	/* On a busy machine it may be over before the vCPU polls, but not always. */
	EXPECT_LT(0, hits);
}

TEST_F(idle, ends_by_a_signal)
{
	int early = 0;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	for (int i = 0; i < ROUNDS; i++) {
		runner_start(&self->runner, &self->vcpu);
		ASSERT_TRUE(eventually(host_state(self->descriptor) == PVIRQ_HOST_POLLING ||
				       !is_running(&self->runner)));
		pthread_kill(self->runner.thread, SIGUSR1);
		if (runner_wait(&self->runner) == -EINTR) {
			early += idle_end(self->descriptor) == PVIRQ_IDLE_EVENT;
			EXPECT_EQ(PVIRQ_HOST_OUTSIDE, host_state(self->descriptor));
			EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
		}
	}
	EXPECT_LE(SOME, early);
}

TEST_F(idle, gives_way)
{
	struct contender contender;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	contender_start(&contender);
	for (int i = 0; i < 10; i++) {
		runner_start(&self->runner, &self->vcpu);
		EXPECT_BYTE(0x55, runner_wait(&self->runner));
		EXPECT_EQ(PVIRQ_IDLE_CONTENDED, idle_end(self->descriptor));
		EXPECT_EQ(0, self->descriptor->host_poll_ns);
		EXPECT_EQ(0, self->descriptor->guest_poll_ns);
	}
	contender_stop(&contender);
	EXPECT_EQ(10, STATISTIC("idle-contended"));
	/* Less than one window. */
	EXPECT_GT(LONG, STATISTIC("polled-ns"));
}

/* Another task has had the CPU for half of the time since the last call, and is gone. */
TEST_F(idle, gives_way_to_who_comes_and_goes)
{
	struct contender contender;
	uint64_t start;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	pin(0);
	for (int i = 0; i < 5; i++) {
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
		contender_start(&contender);
		for (start = now(); now() - start < 100 * MS;)
			;
		contender_stop(&contender);
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
		EXPECT_EQ(PVIRQ_IDLE_CONTENDED, idle_end(self->descriptor));
	}
}

TEST_F(idle, keeps_to_its_budget)
{
	const unsigned int percent = 2;
	uint64_t start, allowed;

	REGISTER();
	set_poll(&self->vm, LONG, percent, PVIRQ_POLICY_FIXED);
	LOAD(guest_idle);
	start = now();
	while (now() - start < 1500ULL * MS)
		EXPECT_BYTE(0x55, vcpu_run(&self->vcpu));
	/* What it may save up in a second, and what comes in meanwhile; one more window for calls that end late. */
	allowed = percent * (1000ULL * MS + now() - start) / 100 + LONG;
	EXPECT_LE(STATISTIC("polled-ns"), allowed);
	EXPECT_LE(percent * 1000ULL * MS / 100 / 2, STATISTIC("polled-ns"));
	EXPECT_LT(0, STATISTIC("idle-contended"));
}

TEST_F(idle, windows_follow_the_idle_periods)
{
	/* Where KVM's policy begins, doubled twice. */
	const uint32_t grown = 4 * 10000;
	uint32_t window, longest = 0;

	REGISTER();
	set_poll(&self->vm, LONG, 100, PVIRQ_POLICY_HALT_POLL);
	LOAD(guest_idle_halt);
	/* Interrupts that come soon, so that polling pays, until it does. */
	for (int i = 0; i < 2000 && (longest < grown || !STATISTIC("idle-events")); i++) {
		runner_start(&self->runner, &self->vcpu);
		usleep(100);
		signal_msi(&self->vm);
		EXPECT_BYTE(0x77, runner_wait(&self->runner));
		vcpu_end_interrupts(&self->vcpu);
		window = self->descriptor->host_poll_ns;
		longest = window > longest ? window : longest;
	}
	EXPECT_LT(0, STATISTIC("idle-events"));
	EXPECT_LE(grown, longest);
	EXPECT_GE(LONG, longest);
	/* And such as nobody would poll for. */
	for (int i = 0; i < 20 && self->descriptor->host_poll_ns; i++) {
		runner_start(&self->runner, &self->vcpu);
		usleep(3 * LONG / 1000);
		signal_msi(&self->vm);
		EXPECT_BYTE(0x77, runner_wait(&self->runner));
		vcpu_end_interrupts(&self->vcpu);
	}
	EXPECT_EQ(0, self->descriptor->host_poll_ns);
	EXPECT_EQ(0, self->descriptor->guest_poll_ns);
}

TEST_F(idle, limits_are_checked)
{
	const struct pvirq_poll good = {
		.size = sizeof(good),
		.guest_poll_ns = 1,
		.host_poll_ns = 2,
		.budget = 3,
		.policy = PVIRQ_POLICY_GOVERNOR,
	};
	struct pvirq_poll bad[] = { good, good, good, good, good, good, good }, poll = { .size = sizeof(poll) };
	struct vm kvm;

	EXPECT_EQ(PVIRQ_IOCTL_VERSION, ioctl(self->vm.fd, PVIRQ_GET_VERSION));
	ASSERT_EQ(0, ioctl(self->vm.fd, PVIRQ_GET_POLL, &poll));
	EXPECT_LT(0, poll.host_poll_ns);
	EXPECT_EQ(PVIRQ_POLICY_HALT_POLL, poll.policy);
	ASSERT_EQ(0, ioctl(self->vm.fd, PVIRQ_SET_POLL, &good));

	bad[0].size--;
	bad[1].size++;
	bad[2].flags = 1;
	bad[3].guest_poll_ns = PVIRQ_POLL_MAX_NS + 1;
	bad[4].host_poll_ns = PVIRQ_POLL_MAX_NS + 1;
	bad[5].budget = 101;
	bad[6].policy = PVIRQ_POLICY_GOVERNOR + 1;
	for (int i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_SET_POLL, &bad[i]));
		EXPECT_EQ(EINVAL, errno)
			TH_LOG("case %d", i);
	}
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_POLL, &bad[0]));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_SET_POLL, NULL));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, ioctl(self->vm.fd, PVIRQ_GET_POLL, NULL));
	EXPECT_EQ(EFAULT, errno);
	/* None of them has changed anything. */
	ASSERT_EQ(0, ioctl(self->vm.fd, PVIRQ_GET_POLL, &poll));
	EXPECT_EQ(0, memcmp(&good, &poll, sizeof(good)));

	vm_open(&kvm, KVM_DEVICE);
	EXPECT_EQ(-1, ioctl(kvm.fd, PVIRQ_GET_VERSION));
	EXPECT_EQ(ENOTTY, errno);
	vm_close(&kvm);
}

TEST_HARNESS_MAIN
