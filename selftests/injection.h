/* SPDX-License-Identifier: GPL-2.0 */
/* Eventfds that are bound to vCPUs and to other eventfds. */
#ifndef _PVIRQ_SELFTESTS_INJECTION_H
#define _PVIRQ_SELFTESTS_INJECTION_H

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "posting.h"

/* What BIND takes for a vector of a vCPU. */
#define TO_VCPU(_source, _vcpu, _vector)					\
	((struct pvirq_bind){							\
		.size = sizeof(struct pvirq_bind), .flags = PVIRQ_BIND_POST,	\
		.source = (_source), .vcpu = (_vcpu), .vector = (_vector),	\
	})

/* What BIND takes for a sink. */
#define TO_SINK(_source, _sink)							\
	((struct pvirq_bind){							\
		.size = sizeof(struct pvirq_bind), .flags = PVIRQ_BIND_SINK,	\
		.source = (_source), .sink = (_sink),				\
	})

/* BIND; 0, or the errno. */
static inline int try_bind(struct vm *vm, struct pvirq_bind bind)
{
	return ioctl(vm->fd, PVIRQ_BIND, &bind) ? errno : 0;
}

/* UNBIND; 0, or the errno. */
static inline int try_unbind(struct vm *vm, int source)
{
	struct pvirq_unbind unbind = { .size = sizeof(unbind), .source = source };

	return ioctl(vm->fd, PVIRQ_UNBIND, &unbind) ? errno : 0;
}

/* KVM_IRQFD; 0, or the errno. */
static inline int try_irqfd(struct vm *vm, int fd, unsigned int gsi, unsigned int flags)
{
	struct kvm_irqfd irqfd = { .fd = fd, .gsi = gsi, .flags = flags };

	return ioctl(vm->fd, KVM_IRQFD, &irqfd) ? errno : 0;
}

static inline int eventfd_open(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	if (fd < 0)
		die("eventfd");
	return fd;
}

static inline void eventfd_signal(int fd)
{
	if (eventfd_write(fd, 1))
		die("write to eventfd %d", fd);
}

/* What is in the counter, which is 0 afterwards. */
static inline uint64_t eventfd_take(int fd)
{
	eventfd_t value;

	return eventfd_read(fd, &value) ? 0 : value;
}

/* What a source has counted. */
struct pvirq_source source_counters(struct vm *vm, int source);

/* What the bottom halves of a kind have counted on all CPUs. */
struct pvirq_bottom_half bottom_half_counters(struct vm *vm, uint32_t kind);

#endif
