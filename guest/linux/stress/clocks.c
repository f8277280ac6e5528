/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Clocks go forward, and those of the vDSO as the kernel's do. */
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "stress.h"

#define READINGS 1000

static uint64_t in_ns(struct timespec time)
{
	return time.tv_sec * 1000000000ul + time.tv_nsec;
}

static uint64_t by_vdso(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return in_ns(time);
}

static uint64_t by_kernel(clockid_t clock)
{
	struct timespec time;

	syscall(SYS_clock_gettime, clock, &time);
	return in_ns(time);
}

static void check_order(clockid_t clock)
{
	uint64_t first = by_vdso(clock), second, third;

	for (int i = 0; i < READINGS; i++) {
		second = by_vdso(clock);
		expect(second >= first, "clock %d went back by %lu ns", clock,
		       first - second);
		first = second;
	}
	second = by_kernel(clock);
	third = by_vdso(clock);
	expect(first <= second && second <= third,
	       "clock %d: %lu, the kernel's %lu, %lu", clock, first, second, third);
}

static void check_tsc(void)
{
	uint64_t first = __rdtsc(), second;

	for (int i = 0; i < READINGS; i++) {
		second = __rdtsc();
		expect(second >= first, "the TSC went back by %lu", first - second);
		first = second;
	}
}

/* What the process has used can't be more than the time that went by. */
static void check_cpu_time(void)
{
	uint64_t begun = by_kernel(CLOCK_MONOTONIC);
	uint64_t cpu = by_kernel(CLOCK_PROCESS_CPUTIME_ID), now;

	for (int i = 0; i < READINGS; i++)
		__asm__ volatile("pause");
	now = by_kernel(CLOCK_PROCESS_CPUTIME_ID);
	expect(now >= cpu, "CPU time went back by %lu ns", cpu - now);
	cpu = now - cpu;
	now = by_kernel(CLOCK_MONOTONIC) - begun;
	/* Two clocks, that run a little apart: a thousandth, and a tick. */
	expect(cpu <= now + now / 1000 + 10000000, "%lu ns of CPU time in %lu ns", cpu,
	       now);
}

void run_clocks(void)
{
	while (next()) {
		check_order(CLOCK_MONOTONIC);
		check_order(CLOCK_BOOTTIME);
		check_order(CLOCK_REALTIME);
		check_tsc();
		check_cpu_time();
		sched_yield();
	}
}
