// SPDX-License-Identifier: GPL-2.0
/*
 * Runs loads in turn for as long as the guest lives, and reports their progress: keep-going MILLISECONDS LOAD...
 *
 * Each load (see loads.c) does its operation as often as takes about MILLISECONDS, then the next one comes. A line for
 * each of these runs, and for each quarter of a second that one takes, goes to the second serial port: lines of the kernel
 * and commands are on the first one.
 *
 *   @NUMBER NOW LOAD STATE DONE TIME LONGEST ELIDED POSTED REGISTERED REGISTRATIONS;
 *
 * NOW is CLOCK_MONOTONIC, STATE `running`, `ended` or `failed`, DONE how many operations this run has done, TIME how
 * long they took, and LONGEST the longest of them, one that is not done included; times are in ns. ELIDED is how many posts
 * pvirq_guest.ko has not sent so far because of states that a host writes while it runs a vCPU (it had been preempted, or
 * the host polled), POSTED how many interrupts it has posted, REGISTERED whether the host has its descriptors, and
 * REGISTRATIONS how often a host has taken them. They are -1 if it is not loaded, or does not say so.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "progress.h"

enum { FIRST = 10, COLUMNS = 16 };

static const char file[] = "/progress";
static struct progress *progress;
static const char port_name[] = "/dev/ttyS1";
static int port;

static void fail(const char *what)
{
	fprintf(stderr, "keep-going: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Adds up the columns of the module's table of what has been sent. The first two are the CPU and the kind. */
static void read_counters(long long *elided, long long *posted)
{
	static char line[1024];
	bool is_elided[COLUMNS] = { false }, is_posted[COLUMNS] = { false };
	FILE *stream = fopen("/sys/kernel/debug/pvirq_guest/sent", "r");

	*elided = *posted = stream ? 0 : -1;
	if (!stream)
		return;
	for (int row = 0; fgets(line, sizeof(line), stream); row++) {
		char *rest = line, *word;

		for (int column = 0; column < COLUMNS && (word = strsep(&rest, " \t\n")); ) {
			if (!*word)
				continue;
			if (!row) {
				is_elided[column] = !strcmp(word, "elided_preempted") ||
						    !strcmp(word, "elided_polling_host");
				is_posted[column] = column >= 2 && strcmp(word, "unposted");
			} else {
				*elided += is_elided[column] ? atoll(word) : 0;
				*posted += is_posted[column] ? atoll(word) : 0;
			}
			column++;
		}
	}
	fclose(stream);
}

/* What the module says of this in its table of the host. */
static long long read_host(const char *name)
{
	FILE *stream = fopen("/sys/kernel/debug/pvirq_guest/host", "r");
	long long value = -1, found;
	char word[64];

	if (!stream)
		return -1;
	while (fscanf(stream, "%63s", word) == 1)
		if (!strcmp(word, name) && fscanf(stream, "%lld", &found) == 1)
			value = found;
	fclose(stream);
	return value;
}

static void report(const char *load, const char *state)
{
	static unsigned long number;
	uint64_t began = progress->began, last = progress->last, longest = progress->longest;
	/* After `last` has been read, for the load goes on meanwhile. */
	uint64_t time = now();
	bool ended = strcmp(state, "running");
	uint64_t took;
	long long elided, posted;
	char line[256];

	read_counters(&elided, &posted);
	if (!ended && began && time - last > longest)
		longest = time - last;
	took = began ? (ended ? last : time) - began : 0;
	snprintf(line, sizeof(line), "@%lu %llu %s %s %llu %llu %llu %lld %lld %lld %lld;\n", number++,
		 (unsigned long long)time, load, state, (unsigned long long)progress->done, (unsigned long long)took,
		 (unsigned long long)longest, elided, posted, read_host("registered"), read_host("registrations"));
	if (write(port, line, strlen(line)) != (ssize_t)strlen(line))
		fail(port_name);
}

/* Runs a load. Returns how long its operations took. */
static uint64_t run(const char *load, uint64_t count)
{
	static const struct timespec pause = { .tv_nsec = 250 * 1000 * 1000 };
	sigset_t child_ends;
	char number[32];
	int status;
	pid_t child;

	memset(progress, 0, sizeof(*progress));
	snprintf(number, sizeof(number), "%llu", (unsigned long long)count);
	child = fork();
	if (child < 0)
		fail("fork");
	if (!child) {
		sigemptyset(&child_ends);
		sigprocmask(SIG_SETMASK, &child_ends, NULL);
		execl("/loads", "/loads", load, number, file, NULL);
		fail("/loads");
	}
	sigemptyset(&child_ends);
	sigaddset(&child_ends, SIGCHLD);
	while (!waitpid(child, &status, WNOHANG))
		if (sigtimedwait(&child_ends, NULL, &pause) < 0 && errno == EAGAIN)
			report(load, "running");
	report(load, status ? "failed" : "ended");
	return progress->last - progress->began;
}

int main(int argc, char **argv)
{
	sigset_t child_ends;
	uint64_t time, counts[64];
	int fd;

	if (argc < 3 || argc > 64 || (time = atol(argv[1]) * 1000000ull) == 0) {
		fprintf(stderr, "usage: keep-going MILLISECONDS LOAD...\n");
		return 2;
	}
	port = open(port_name, O_WRONLY | O_NOCTTY);
	if (port < 0)
		fail(port_name);
	fd = open(file, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, sizeof(*progress)))
		fail(file);
	progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (progress == MAP_FAILED)
		fail("mmap");
	/* Blocked, so that one that ends before it is waited for is not missed. */
	sigemptyset(&child_ends);
	sigaddset(&child_ends, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child_ends, NULL);
	for (int i = 2; i < argc; i++)
		counts[i] = FIRST;
	for (;;)
		for (int i = 2; i < argc; i++) {
			uint64_t took = run(argv[i], counts[i]);
			uint64_t wanted = took ? counts[i] * time / took : 2 * counts[i];

			/* Smoothly: a run that was held up says little of the next one. */
			counts[i] = (counts[i] + (wanted < 2 * counts[i] ? wanted : 2 * counts[i]) + 1) / 2;
			if (counts[i] < FIRST)
				counts[i] = FIRST;
		}
}
