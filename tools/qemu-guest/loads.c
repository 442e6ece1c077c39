// SPDX-License-Identifier: GPL-2.0
/*
 * Loads that make the CPUs of a Linux guest interrupt each other: loads NAME COUNT [PROGRESS]
 *
 * Gets ready, says "@begin", waits for a line, does its operation COUNT times, and says for each idle state of the
 * kernel's cpuidle driver, if it has one, how long all CPUs were in it meanwhile, "@idle STATE MICROSECONDS", and then
 * "@end COUNT NANOSECONDS CYCLES".
 * Each checks what it does, and fails if something was lost. The first thread is on CPU 0, or where it likes if that CPU is
 * away, and so for the others. With a file PROGRESS it waits for no line, says nothing, and notes each operation there.
 *
 *   futex      two threads on two CPUs wake each other in turn
 *   pipe       two processes on two CPUs send each other a byte in turn, as `perf bench sched pipe` does
 *   messaging  groups of senders and receivers on all CPUs, as `perf bench sched messaging` does
 *   membarrier one thread on each CPU, one of which calls membarrier()
 *   munmap     one thread on each CPU that touches memory, one of which unmaps some
 *   mprotect   the same, and it takes the right to write away
 *   perf-pipe, perf-messaging
 *              `perf bench sched pipe` and `perf bench sched messaging`, by /perf, with its start; perf says the time
 *   cpu        nothing but the CPU
 *   ipi-self, ipi-single, ipi-broadcast
 *              what the module ipi_bench does, while all other CPUs are idle
 *   busy-ipi-single, busy-ipi-broadcast
 *              the same, while all other CPUs are at work
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "progress.h"

#define PAGE 4096

static long count;

static void fail(const char *what)
{
	fprintf(stderr, "loads: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void check(bool ok, const char *what)
{
	if (!ok)
		fail(what);
}

static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % sysconf(_SC_NPROCESSORS_ONLN), &set);
	check(!sched_setaffinity(0, sizeof(set), &set) || errno == EINVAL, "sched_setaffinity");
}

/* How long all CPUs have been in each state of the kernel's cpuidle driver. */

enum { STATES = 4, NAME = 16 };

struct idle {
	char name[NAME];
	long long microseconds;
};

static bool read_line(int cpu, int state, const char *file, char *line, int size)
{
	char path[96];
	FILE *stream;
	bool ok;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/cpuidle/state%d/%s", cpu, state, file);
	stream = fopen(path, "r");
	if (!stream)
		return false;
	ok = fgets(line, size, stream);
	fclose(stream);
	line[strcspn(line, "\n")] = 0;
	return ok;
}

static void read_idle(struct idle idle[STATES])
{
	char number[32];

	memset(idle, 0, STATES * sizeof(*idle));
	for (int state = 0; state < STATES && read_line(0, state, "name", idle[state].name, NAME); state++)
		for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF); cpu++)
			if (read_line(cpu, state, "time", number, sizeof(number)))
				idle[state].microseconds += atoll(number);
}

/* What is between is measured. */

static uint64_t started, started_cycles;
static struct idle idle_before[STATES];
static struct progress *progress;

static void open_progress(const char *path)
{
	int fd = open(path, O_RDWR);

	check(fd >= 0, path);
	progress = mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(progress != MAP_FAILED, path);
}

static inline void done(long operations)
{
	if (progress)
		note(progress, operations);
}

static void begin(void)
{
	char line[16];

	if (progress) {
		/* In this order: `last` is valid once `began` is set. */
		progress->last = now();
		progress->began = progress->last;
		return;
	}
	printf("@begin\n");
	fflush(stdout);
	check(fgets(line, sizeof(line), stdin), "no line to begin");
	read_idle(idle_before);
	started = now();
	started_cycles = __rdtsc();
}

static void end_after(uint64_t nanoseconds)
{
	unsigned long long cycles = __rdtsc() - started_cycles;
	struct idle idle[STATES];

	if (progress)
		return;
	read_idle(idle);
	for (int i = 0; i < STATES && idle[i].name[0]; i++)
		printf("@idle %s %lld\n", idle[i].name, idle[i].microseconds - idle_before[i].microseconds);
	printf("@end %ld %llu %llu\n", count, (unsigned long long)nanoseconds, cycles);
	fflush(stdout);
}

static void end(void)
{
	end_after(now() - started);
}

/* futex */

static _Atomic uint32_t turn;

static void wait_for_turn(uint32_t mine)
{
	uint32_t seen;

	while ((seen = atomic_load(&turn)) != mine)
		syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void give_turn(uint32_t other)
{
	atomic_store(&turn, other);
	syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *futex_partner(void *unused)
{
	stay_on(1);
	for (long i = 0; i <= count; i++) {
		wait_for_turn(1);
		give_turn(0);
	}
	return NULL;
}

static void futex(void)
{
	pthread_t partner;

	stay_on(0);
	check(!pthread_create(&partner, NULL, futex_partner, NULL), "pthread_create");
	give_turn(1);
	wait_for_turn(0);
	begin();
	for (long i = 0; i < count; i++) {
		give_turn(1);
		wait_for_turn(0);
		done(1);
	}
	end();
	pthread_join(partner, NULL);
}

/* pipe */

static void pass_byte(int from, int to, bool read_first)
{
	char byte = 1;

	if (!read_first)
		check(write(to, &byte, 1) == 1, "write");
	check(read(from, &byte, 1) == 1, "read");
	if (read_first)
		check(write(to, &byte, 1) == 1, "write");
}

static void pipes(void)
{
	int there[2], back[2], status;
	pid_t child;

	check(!pipe(there) && !pipe(back), "pipe");
	child = fork();
	check(child >= 0, "fork");
	if (!child) {
		stay_on(1);
		for (long i = 0; i <= count; i++)
			pass_byte(there[0], back[1], true);
		_exit(0);
	}
	stay_on(0);
	pass_byte(back[0], there[1], false);
	begin();
	for (long i = 0; i < count; i++) {
		pass_byte(back[0], there[1], false);
		done(1);
	}
	end();
	check(waitpid(child, &status, 0) == child && !status, "the partner has failed");
}

/* messaging: COUNT messages from each sender to each receiver of its group. */

enum { GROUPS = 2, PEERS = 4, MESSAGE = 100 };

static void receive(int fd, long messages)
{
	char message[MESSAGE];

	for (long i = 0; i < messages; i++)
		for (int got = 0; got < MESSAGE;) {
			int some = read(fd, message + got, MESSAGE - got);

			check(some > 0, "read");
			got += some;
		}
}

static void messaging(void)
{
	int ready[2], go[2], status;
	char byte = 1;

	check(!pipe(ready) && !pipe(go), "pipe");
	for (int group = 0; group < GROUPS; group++) {
		int pairs[PEERS][2];

		for (int i = 0; i < PEERS; i++)
			check(!socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]), "socketpair");
		for (int i = 0; i < 2 * PEERS; i++) {
			char message[MESSAGE] = { 0 };
			pid_t child = fork();

			check(child >= 0, "fork");
			if (child)
				continue;
			check(write(ready[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1, "go");
			if (i < PEERS) {
				receive(pairs[i][0], count * PEERS);
				_exit(0);
			}
			for (long n = 0; n < count; n++)
				for (int j = 0; j < PEERS; j++)
					check(write(pairs[j][1], message, MESSAGE) == MESSAGE, "write");
			_exit(0);
		}
		for (int i = 0; i < PEERS; i++) {
			close(pairs[i][0]);
			close(pairs[i][1]);
		}
	}
	for (int i = 0; i < GROUPS * 2 * PEERS; i++)
		check(read(ready[0], &byte, 1) == 1, "read");
	begin();
	for (int i = 0; i < GROUPS * 2 * PEERS; i++)
		check(write(go[1], &byte, 1) == 1, "write");
	for (int i = 0; i < GROUPS * 2 * PEERS; i++)
		check(wait(&status) > 0 && !status, "a peer has failed");
	end();
}

/* Threads on all CPUs but the first, which are at work, and share memory. */

static _Atomic bool stop;
static _Atomic int running;
static volatile char *_Atomic shared;

static void *touch(void *cpu)
{
	stay_on((intptr_t)cpu);
	atomic_fetch_add(&running, 1);
	while (!atomic_load(&stop)) {
		volatile char *page = atomic_load(&shared);

		if (page)
			(void)*page;
		sched_yield();
	}
	return NULL;
}

static void with_threads(void (*operation)(void))
{
	int cpus = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t threads[cpus];

	stay_on(0);
	for (intptr_t i = 1; i < cpus; i++)
		check(!pthread_create(&threads[i], NULL, touch, (void *)i), "pthread_create");
	while (atomic_load(&running) < cpus - 1)
		sched_yield();
	begin();
	for (long i = 0; i < count; i++) {
		operation();
		done(1);
	}
	end();
	atomic_store(&stop, true);
	for (int i = 1; i < cpus; i++)
		pthread_join(threads[i], NULL);
}

static void membarrier_once(void)
{
	check(!syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), "membarrier");
}

static void membarriers(void)
{
	check(!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0), "membarrier");
	with_threads(membarrier_once);
}

static void munmap_once(void)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(page != MAP_FAILED, "mmap");
	*page = 1;
	check(!munmap(page, PAGE), "munmap");
}

static void mprotect_once(void)
{
	char *page = (char *)atomic_load(&shared);

	*page = 1;
	check(!mprotect(page, PAGE, PROT_READ), "mprotect");
	check(!mprotect(page, PAGE, PROT_READ | PROT_WRITE), "mprotect");
}

static void munmaps(void)
{
	with_threads(munmap_once);
}

static void mprotects(void)
{
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	check(page != MAP_FAILED, "mmap");
	*page = 1;
	atomic_store(&shared, page);
	with_threads(mprotect_once);
}

/* perf-… */

static void perf(const char *arguments)
{
	char command[128];
	double seconds;
	FILE *output;

	snprintf(command, sizeof(command), "/perf bench --format=simple sched %s -l %ld", arguments, count);
	begin();
	output = popen(command, "r");
	check(output, "popen");
	check(fscanf(output, "%lf", &seconds) == 1 && !pclose(output), command);
	end_after(seconds * 1e9);
}

static void perf_pipe(void)
{
	perf("pipe");
}

static void perf_messaging(void)
{
	perf("messaging -g 1");
}

static void cpu(void)
{
	stay_on(0);
	begin();
	for (long i = 0; i < count; i++)
		for (volatile int j = 0; j < 1000; j++)
			;
	end();
}

/* ipi-… */

static void *work(void *cpu)
{
	stay_on((intptr_t)cpu);
	atomic_fetch_add(&running, 1);
	while (!atomic_load(&stop))
		;
	return NULL;
}

static void keep_others_busy(void)
{
	int cpus = sysconf(_SC_NPROCESSORS_ONLN);

	for (intptr_t i = 1; i < cpus; i++) {
		pthread_t thread;

		check(!pthread_create(&thread, NULL, work, (void *)i), "pthread_create");
	}
	while (atomic_load(&running) < cpus - 1)
		sched_yield();
}

static void ipi(const char *way)
{
	char path[64], number[32];
	/* In pieces only if each is noted. */
	long piece = progress ? 1 : count;
	int fd, length;

	snprintf(path, sizeof(path), "/sys/kernel/debug/ipi_bench/%s", way);
	fd = open(path, O_WRONLY);
	check(fd >= 0, path);
	length = snprintf(number, sizeof(number), "%ld", piece);
	stay_on(0);
	begin();
	for (long i = 0; i < count; i += piece) {
		check(write(fd, number, length) == length, path);
		done(piece);
	}
	end();
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} loads[] = {
		{ "futex", futex }, { "pipe", pipes }, { "messaging", messaging }, { "membarrier", membarriers },
		{ "munmap", munmaps }, { "mprotect", mprotects }, { "cpu", cpu },
		{ "perf-pipe", perf_pipe }, { "perf-messaging", perf_messaging },
	};

	if (argc < 3 || argc > 4 || (count = atol(argv[2])) <= 0) {
		fprintf(stderr, "usage: loads NAME COUNT [PROGRESS]\n");
		return 2;
	}
	if (argc == 4)
		open_progress(argv[3]);
	if (!strncmp(argv[1], "busy-", 5)) {
		keep_others_busy();
		argv[1] += 5;
	}
	if (!strncmp(argv[1], "ipi-", 4)) {
		ipi(argv[1] + 4);
		return 0;
	}
	for (size_t i = 0; i < sizeof(loads) / sizeof(*loads); i++)
		if (!strcmp(argv[1], loads[i].name)) {
			loads[i].run();
			return 0;
		}
	fprintf(stderr, "loads: there is no %s\n", argv[1]);
	return 2;
}
