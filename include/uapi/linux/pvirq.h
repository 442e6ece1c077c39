/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * pvirq: posted interrupts in memory that a KVM guest shares with its host.
 *
 * Documentation/protocol.rst says how the descriptors are used, and
 * Documentation/guest-interface.rst how a guest registers them.
 */
#ifndef _UAPI_LINUX_PVIRQ_H
#define _UAPI_LINUX_PVIRQ_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * One vCPU's descriptor. Each line of 64 bytes has its own writer; zeroed
 * memory is a valid descriptor, whose vCPU will not poll.
 */
struct pvirq_descriptor {
	/* One bit per vector: senders set them, the owner takes them. */
	__aligned_u64 pending[4];
	__aligned_u64 reserved0[4];

	/* Written by the host. */
	__u32 host_state;		/* PVIRQ_HOST_* */
	__u32 guest_poll_ns;		/* how long the guest polls */
	__u32 host_poll_ns;		/* how long the host then polls */
	__u32 idle_end;			/* PVIRQ_IDLE_* */
	__u32 reserved1[12];

	/* Written by the guest, on the descriptor's vCPU. */
	__u32 guest_state;		/* PVIRQ_GUEST_* */
	__u32 idle_hits;		/* idle periods that ended while it polled */
	__aligned_u64 posted;
	__aligned_u64 coalesced;
	__aligned_u64 elided;
	__aligned_u64 kicked;
	__aligned_u64 drained;
	__aligned_u64 reserved2[2];

	/* Written by the host. */
	__aligned_u64 injected;
	__aligned_u64 dropped_reserved;
	__aligned_u64 forced_exits;
	__aligned_u64 drains;
	__aligned_u64 reserved3[4];
} __attribute__((aligned(64)));

/* Values of host_state. All others mean PVIRQ_HOST_RUNNING. */
#define PVIRQ_HOST_RUNNING	0	/* will not poll */
#define PVIRQ_HOST_BLOCKED	1	/* will not poll */
#define PVIRQ_HOST_PREEMPTED	2
#define PVIRQ_HOST_OUTSIDE	3
#define PVIRQ_HOST_POLLING	4

/* Values of guest_state. All others mean PVIRQ_GUEST_RUNNING. */
#define PVIRQ_GUEST_RUNNING	0	/* will not poll */
#define PVIRQ_GUEST_POLLING	1

/* Values of idle_end. All others mean PVIRQ_IDLE_EXPIRED. */
#define PVIRQ_IDLE_EXPIRED	0	/* halt */
#define PVIRQ_IDLE_POSTED	1
#define PVIRQ_IDLE_EVENT	2
#define PVIRQ_IDLE_CONTENDED	3	/* halt */

/* Vectors below this one cannot be posted. */
#define PVIRQ_FIRST_VECTOR	16

/*
 * The guest interface: registers of 32 bits, at these offsets from the base
 * port. Each vCPU has its own.
 */
#define PVIRQ_PORT_BASE		0xb80
#define PVIRQ_PORT_LEN		32

#define PVIRQ_REG_MAGIC		0x00	/* in */
#define PVIRQ_REG_VERSION	0x04	/* in */
#define PVIRQ_REG_FEATURES	0x08	/* in */
#define PVIRQ_REG_MAX_DESCRIPTORS	0x0c	/* in */
#define PVIRQ_REG_STATUS	0x10	/* in */
#define PVIRQ_REG_EPOCH		0x14	/* in; with PVIRQ_FEATURE_EPOCH */
#define PVIRQ_REG_COMMAND	0x10	/* out */
#define PVIRQ_REG_ADDRESS_LOW	0x14	/* out */
#define PVIRQ_REG_ADDRESS_HIGH	0x18	/* out */
#define PVIRQ_REG_COUNT		0x1c	/* out */

#define PVIRQ_MAGIC		0x51495650	/* "PVIQ" */
#define PVIRQ_VERSION		1
#define PVIRQ_ABSENT		0xffffffff	/* without pvirq */

#define PVIRQ_FEATURE_POST	(1 << 0)
#define PVIRQ_FEATURE_IDLE	(1 << 1)
#define PVIRQ_FEATURE_EPOCH	(1 << 2)

/* Values of PVIRQ_REG_COMMAND, lower half. The upper one is 0 by default. */
#define PVIRQ_COMMAND_REGISTER	1	/* upper half: the guest's version */
#define PVIRQ_COMMAND_UNREGISTER	2
#define PVIRQ_COMMAND_IDLE	3

/* Values of PVIRQ_REG_STATUS. */
#define PVIRQ_STATUS_OK		0
#define PVIRQ_STATUS_UNSUPPORTED	1
#define PVIRQ_STATUS_WRONG_VERSION	2
#define PVIRQ_STATUS_UNALIGNED	3
#define PVIRQ_STATUS_NOT_RAM	4
#define PVIRQ_STATUS_CROSSES_SLOT	5
#define PVIRQ_STATUS_READ_ONLY	6
#define PVIRQ_STATUS_TOO_MANY	7
#define PVIRQ_STATUS_NO_LAPIC	8
#define PVIRQ_STATUS_NO_MEMORY	9
#define PVIRQ_STATUS_NOT_REGISTERED	10
#define PVIRQ_STATUS_DIRTY_LOGGING	11	/* not now */
#define PVIRQ_STATUS_FORBIDDEN	12
#define PVIRQ_STATUS_PRIVATE	13

/*
 * Ioctls on the file of a VM, beyond KVM's API. Each argument begins with its
 * size; an unknown flag is EINVAL.
 */
#define PVIRQ_IOCTL_MAGIC	0xbf
#define PVIRQ_IOCTL_VERSION	1

/* How a VM's idle vCPUs poll. */
struct pvirq_poll {
	__u32 size;
	__u32 flags;			/* 0 */
	__u32 guest_poll_ns;		/* at most PVIRQ_POLL_MAX_NS */
	__u32 host_poll_ns;		/* at most PVIRQ_POLL_MAX_NS */
	__u32 budget;			/* percent of a CPU, at most 100 */
	__u32 policy;			/* PVIRQ_POLICY_* */
};

#define PVIRQ_POLL_MAX_NS	10000000

/*
 * Values of policy: how a vCPU's poll windows are chosen, up to the ceilings
 * guest_poll_ns and host_poll_ns. ADAPTIVE: the ceiling, or 0. An idle period
 * that is no longer than the ceiling pays for polling in 2 longer ones, 8 are
 * saved at most, and after 16 longer ones in a row one more is polled for.
 */
#define PVIRQ_POLICY_HALT_POLL	0	/* as KVM's halt_poll_ns */
#define PVIRQ_POLICY_FIXED	1	/* always the ceiling */
#define PVIRQ_POLICY_GOVERNOR	2	/* as the guest's haltpoll governor */
#define PVIRQ_POLICY_ADAPTIVE	3

/*
 * What an eventfd is bound to. A signal is posted to the vCPU, if there is
 * one. If the vCPU will not poll, a bottom half signals the sink; without a
 * sink the vCPU is kicked, and no bottom half runs. Documentation/injection.rst
 * lists the errors.
 */
struct pvirq_bind {
	__u32 size;
	__u32 flags;			/* PVIRQ_BIND_* */
	__s32 source;
	__s32 sink;			/* with PVIRQ_BIND_SINK; 0 without */
	__u32 vcpu;			/* with PVIRQ_BIND_POST; 0 without */
	__u32 vector;			/* with PVIRQ_BIND_POST; 0 without */
	__u32 bottom_half;		/* PVIRQ_BOTTOM_HALF_*, for the sink */
	__u32 reserved;			/* 0 */
};

/* Values of flags: at least one of them. */
#define PVIRQ_BIND_POST		(1 << 0)
#define PVIRQ_BIND_SINK		(1 << 1)

/* Values of bottom_half and kind. */
#define PVIRQ_BOTTOM_HALF_DEFAULT	0	/* the module's parameter */
#define PVIRQ_BOTTOM_HALF_TASKLET	1
#define PVIRQ_BOTTOM_HALF_WORKQUEUE	2

struct pvirq_unbind {
	__u32 size;
	__u32 flags;			/* 0 */
	__s32 source;
	__u32 reserved;			/* 0 */
};

/* A source's counters. The caller sets the first four members. */
struct pvirq_source {
	__u32 size;
	__u32 flags;			/* 0 */
	__s32 source;
	__u32 reserved;			/* 0 */
	__aligned_u64 top_halves;
	__aligned_u64 elided;
	__aligned_u64 coalesced;
	__aligned_u64 queued;
	__aligned_u64 delivered;
};

/* A CPU's bottom half's counters. The caller sets the first four members. */
struct pvirq_bottom_half {
	__u32 size;
	__u32 flags;			/* 0 */
	__u32 cpu;
	__u32 kind;			/* PVIRQ_BOTTOM_HALF_* */
	__aligned_u64 top_halves;
	__aligned_u64 elided;
	__aligned_u64 coalesced;
	__aligned_u64 queued;
	__aligned_u64 delivered;
	__aligned_u64 batches;
	__aligned_u64 largest_batch;
	__aligned_u64 ksoftirqd;
};

/*
 * Where descriptors are in the file that PVIRQ_MAP_DESCRIPTORS makes, of which
 * mappings must be shared. When the registration ends, blank descriptors take
 * their place.
 */
struct pvirq_map {
	__u32 size;
	__u32 flags;			/* 0 */
	__u32 offset;			/* returned: of the first, in bytes */
	__u32 count;			/* returned: how many there are */
};

/* Whether the guest may register descriptors. */
struct pvirq_posting {
	__u32 size;
	__u32 flags;			/* 0 */
	__u32 allowed;			/* 1, or 0 to forbid posting */
	__u32 reserved;			/* 0 */
};

/* Values of ended: why the last registration that has ended did so. */
#define PVIRQ_ENDED_NONE		0	/* none has ended */
#define PVIRQ_ENDED_UNREGISTERED	1	/* by the guest */
#define PVIRQ_ENDED_REPLACED	2	/* by the guest */
#define PVIRQ_ENDED_MEMORY_MOVED	3
#define PVIRQ_ENDED_DIRTY_LOGGING	4
#define PVIRQ_ENDED_STATE_REPLACED	5	/* of a vCPU: reset or restored */
#define PVIRQ_ENDED_VMM		6	/* PVIRQ_END_REGISTRATION */
#define PVIRQ_ENDED_FORBIDDEN	7	/* PVIRQ_SET_POSTING */

/* The guest's registration. The caller sets the first two members. */
struct pvirq_registration {
	__u32 size;
	__u32 flags;			/* 0 */
	__u32 allowed;
	__u32 epoch;			/* 0 if there is none */
	__u32 count;
	__u32 ended;			/* PVIRQ_ENDED_* */
	__aligned_u64 address;
	__aligned_u64 registrations;	/* how many there have been */
};

/*
 * Interrupts that are posted to a vCPU and not yet injected: vector v is bit
 * v % 64 of word v / 64.
 */
struct pvirq_posted {
	__u32 size;
	__u32 flags;			/* 0 */
	__u32 vcpu;
	__u32 reserved;			/* 0 */
	__aligned_u64 vectors[4];
};

#define PVIRQ_GET_VERSION	_IO(PVIRQ_IOCTL_MAGIC, 0x00)
#define PVIRQ_SET_POLL		_IOW(PVIRQ_IOCTL_MAGIC, 0x01, struct pvirq_poll)
#define PVIRQ_GET_POLL		_IOWR(PVIRQ_IOCTL_MAGIC, 0x02, struct pvirq_poll)
#define PVIRQ_BIND		_IOW(PVIRQ_IOCTL_MAGIC, 0x03, struct pvirq_bind)
#define PVIRQ_UNBIND		_IOW(PVIRQ_IOCTL_MAGIC, 0x04, struct pvirq_unbind)
#define PVIRQ_GET_SOURCE	_IOWR(PVIRQ_IOCTL_MAGIC, 0x05, struct pvirq_source)
#define PVIRQ_GET_BOTTOM_HALF	_IOWR(PVIRQ_IOCTL_MAGIC, 0x06, struct pvirq_bottom_half)
#define PVIRQ_MAP_DESCRIPTORS	_IOWR(PVIRQ_IOCTL_MAGIC, 0x07, struct pvirq_map)
#define PVIRQ_SET_POSTING	_IOW(PVIRQ_IOCTL_MAGIC, 0x08, struct pvirq_posting)
#define PVIRQ_GET_REGISTRATION	_IOWR(PVIRQ_IOCTL_MAGIC, 0x09, struct pvirq_registration)
#define PVIRQ_END_REGISTRATION	_IO(PVIRQ_IOCTL_MAGIC, 0x0a)
#define PVIRQ_GET_POSTED	_IOWR(PVIRQ_IOCTL_MAGIC, 0x0b, struct pvirq_posted)
#define PVIRQ_SET_POSTED	_IOW(PVIRQ_IOCTL_MAGIC, 0x0c, struct pvirq_posted)

#endif /* _UAPI_LINUX_PVIRQ_H */
