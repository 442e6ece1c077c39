/* SPDX-License-Identifier: GPL-2.0 */
/* What a load has done so far, in a file that it shares with the program that watches it (keep-going.c). */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

/* Times are those of CLOCK_MONOTONIC in ns. */
struct progress {
	_Atomic uint64_t began;		/* when the first operation began, 0 before that */
	_Atomic uint64_t last;		/* when the last one that is done ended */
	_Atomic uint64_t longest;	/* the longest one that is done */
	_Atomic uint64_t done;		/* how many are done */
};

static inline uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

/* Notes that so many more operations are done. One thread does this. */
static inline void note(struct progress *progress, uint64_t operations)
{
	uint64_t time = now();

	if (time - progress->last > progress->longest)
		progress->longest = time - progress->last;
	progress->last = time;
	progress->done += operations;
}

#endif
