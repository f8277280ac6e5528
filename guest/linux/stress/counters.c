/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * perf's counters in software.  The first one of a kind makes the kernel patch its own
 * code, and a second after the last one it does so again.
 */
#include <errno.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "stress.h"

#define PAGES 32

static int open_counter(uint64_t what)
{
	struct perf_event_attr attributes = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attributes),
		.config = what,
	};

	return syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
}

static uint64_t count(int fd)
{
	uint64_t value = 0;

	expect(read(fd, &value, sizeof(value)) == sizeof(value), "read: errno %d",
	       errno);
	return value;
}

/* Fresh pages that are touched are as many faults. */
static void check_faults(int fd)
{
	char *pages = map_pages(PAGES * 4096, PROT_READ | PROT_WRITE);
	uint64_t before, faults;

	count(fd); /* its own faults are over then */
	before = count(fd);
	for (int i = 0; i < PAGES; i++)
		*(volatile char *)(pages + 4096 * i) = 1;
	faults = count(fd) - before;
	expect(faults == PAGES, "%lu faults in %d pages", faults, PAGES);
	munmap(pages, PAGES * 4096);
}

/* It goes on, but for what others have of the CPU. */
static void check_switches(int fd)
{
	struct timespec rest = { 0, 1000000 };
	uint64_t before = count(fd), after;

	clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, NULL);
	after = count(fd);
	expect(after > before, "%lu switches in a sleep", after - before);
}

void run_counters(void)
{
	/* The keys are switched off meanwhile. */
	struct timespec rest = { .tv_sec = 1, .tv_nsec = 100000000 };

	while (next()) {
		int faults = open_counter(PERF_COUNT_SW_PAGE_FAULTS);
		int switches = open_counter(PERF_COUNT_SW_CONTEXT_SWITCHES);

		if (faults < 0 || switches < 0)
			skip("perf_event_open", errno);
		check_faults(faults);
		check_switches(switches);
		close(faults);
		close(switches);
		clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, NULL);
	}
}
