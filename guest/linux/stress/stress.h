/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the workers of the stress program share.
 *
 * A worker is a process, or several that do the same, with a line of its own in
 * the report.  It does something over and over until next() says that the time is
 * up, and tells what came out wrong.  Its children and threads may tell, too.
 */
#ifndef STRESS_H
#define STRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct worker {
	const char *name;
	void (*run)(void);
	int copies;
	bool only_if_named; /* on the command line */
};

/* Count one more iteration; false: the time is up.  The first is always true. */
bool next(void);

/* Whether the time is up. */
bool stopping(void);

/* Something differs from what it has to be. */
void wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define expect(is, ...)                     \
	do {                                \
		if (!(is))                  \
			wrong(__VA_ARGS__); \
	} while (0)

/* A part of the worker can't be had here; say it once, in the report. */
void without(const char *what, int error);

/* The worker can't be had here: ends the process.  `error` is an errno, or 0. */
_Noreturn void skip(const char *what, int error);

/* Something that is to be told of the worker, in place of what it told before. */
void tell(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Pseudo-random numbers, others in each process. */
uint64_t random64(void);

/* A child of the worker: fork() that can't fail, and exit status or -signal. */
int child(void);
int ended(int pid);

/* Fresh pages, or the end of the process; `protection` is mmap's. */
void *map_pages(size_t size, int protection);

/* Numbers of 0 to 255 that depend on `seed`, for what is sent and read again. */
void fill_bytes(unsigned char *bytes, size_t size, uint64_t seed);
bool same_bytes(const unsigned char *bytes, size_t size, uint64_t seed);

void run_sse(void);
void run_avx(void);
void run_avx_anyway(void);
void run_avx512(void);
void run_sum_x87(void);
void run_sum_sse(void);
void run_sum_avx(void);
void run_sum_avx512(void);
void run_signals(void);
void run_sigreturn(void);
void run_timers(void);
void run_timers_unjudged(void);
void run_clocks(void);
void run_pipes(void);
void run_forks(void);
void run_execs(void);
void run_memory(void);
void run_protection(void);
void run_cow(void);
void run_files(void);
void run_threads(void);
void run_counters(void);
void run_steps(void);
void run_breakpoints(void);
void run_traps(void);
void run_interrupts(void);
void run_privileged(void);
void run_kernel_addresses(void);
void run_ports(void);
void run_dev_port(void);
void run_i386(void);
void run_compat(void);
void run_syscalls(void);
void run_pointers(void);
void run_segments(void);

/* What a program does that execs has started: the worker's other side. */
int executed(int argc, char **argv, char **envp);

#endif
