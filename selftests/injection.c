// SPDX-License-Identifier: GPL-2.0
#include <errno.h>

#include "injection.h"

struct pvirq_source source_counters(struct vm *vm, int source)
{
	struct pvirq_source counters = { .size = sizeof(counters), .source = source };

	if (ioctl(vm->fd, PVIRQ_GET_SOURCE, &counters))
		die("PVIRQ_GET_SOURCE");
	return counters;
}

struct pvirq_bottom_half bottom_half_counters(struct vm *vm, uint32_t kind)
{
	struct pvirq_bottom_half sum = {};

	for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF); cpu++) {
		struct pvirq_bottom_half one = { .size = sizeof(one), .cpu = cpu, .kind = kind };

		if (ioctl(vm->fd, PVIRQ_GET_BOTTOM_HALF, &one))
			die("PVIRQ_GET_BOTTOM_HALF of CPU %d", cpu);
		sum.top_halves += one.top_halves;
		sum.elided += one.elided;
		sum.coalesced += one.coalesced;
		sum.queued += one.queued;
		sum.delivered += one.delivered;
		sum.batches += one.batches;
		sum.ksoftirqd += one.ksoftirqd;
		if (one.largest_batch > sum.largest_batch)
			sum.largest_batch = one.largest_batch;
	}
	return sum;
}
