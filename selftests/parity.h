/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Parity of single ioctls: the same calls, good and bad, are made on both
 * devices, each time on a fresh VM, and must have the same outcomes.
 *
 * A probe is one ioctl. From it follows a list of calls: the argument as it
 * should be, then in every way it should not be, then on descriptors of the
 * wrong kind, with the wrong size and direction.
 */
#ifndef _PVIRQ_SELFTESTS_PARITY_H
#define _PVIRQ_SELFTESTS_PARITY_H

#include "vm.h"

#define MAX_OUTCOMES	2048

/* Room for arguments; a page that is not mapped follows it. */
#define ARGUMENT_SIZE	0x8000UL

enum target {
	SYSTEM,
	VM,
	VCPU,
	TARGETS,
};

/* What a probe works on: a VM with one vCPU, made in the same way on both devices. */
struct scene {
	struct vm vm;
	struct vcpu vcpu;
	int fd[TARGETS];
	/* Free for the probe. */
	void *extra;
	int eventfd;
};

struct probe {
	enum target on;
	unsigned long request;
	/* The argument is no pointer: these values, and bad ones, are passed. */
	bool by_value;
	long values[8];
	/* Fills the argument as it should be; the buffer is zeroed. */
	void (*fill)(struct scene *scene, void *argument);
	/* Or the call that fills it. */
	unsigned long get;
	/* Prepares the scene. */
	void (*prepare)(struct scene *scene);
	/* Makes equal what differs between any two VMs, whatever their devices. */
	void (*mask)(struct scene *scene, void *argument);
	/* The VM has interrupt controllers in the kernel. */
	bool irqchip;
};

/* A call and what came of it. */
struct outcome {
	char call[48];
	/* Made on the kind of descriptor that the probe is for. */
	bool on_target;
	long ret;
	int error;
	/* Digest of the argument's buffer, the probe's own, and the vCPU's kvm_run. */
	uint64_t memory;
};

struct record {
	int count;
	struct outcome outcomes[MAX_OUTCOMES];
};

/* Makes a probe's calls on a device. */
void probe_record(const struct probe *probe, const char *device, struct record *record);

/* Calls every number of KVM's, with each direction and two sizes, with NULL, on one kind of descriptor. */
void sweep_record(enum target on, const char *device, struct record *record);

/* Prints where two records differ; returns in how many places. */
int record_compare(const struct record *kvm, const struct record *pvirq);

/* Number of calls on the target that succeeded. */
int record_successes(const struct record *record);

#endif
