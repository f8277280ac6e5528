/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * stress: programs that check the kernel below them, all at the same time.
 *
 *	stress [SECONDS] [WORKER...]	10, and all but those that must be named
 *	stress list			the workers' names
 *
 * Says for each worker how often it did its work and how much was wrong:
 *
 *	stress: NAME: N iterations, N wrong[, without WHAT (ERRNO)...][; REMARK]
 *	stress: NAME: skipped: WHAT[ (ERRNO)]
 *	stress: log: N lines, N wrong
 *	stress: N s, N workers, N wrong
 *
 * and before that, as it happens, what it was: `stress: NAME: wrong: ...`.  The log
 * is the kernel's: an oops, a BUG or a warning is wrong.  Exits 0 if nothing is.
 *
 * Nothing is judged by how long it took: the host may be busy.  A worker that
 * doesn't come back after the time is up is named now and then.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "report.h"
#include "stress.h"

#define PATIENCE_S 60

/*
 * What must be named: `kernel` reads and enters the kernel's addresses, which a
 * kernel in ring 3 doesn't protect; `compat` executes 32-bit code, which is nothing
 * that our kernels promise; `avx-anyway` uses AVX where the kernel may not know it;
 * `timers-unjudged` stands in for `timers` where the host may be busy.
 */
static const struct worker workers[] = {
	{ "sse", run_sse, 2, false },
	{ "avx", run_avx, 2, false },
	{ "avx512", run_avx512, 2, false },
	{ "sum-x87", run_sum_x87, 1, false },
	{ "sum-sse", run_sum_sse, 1, false },
	{ "sum-avx", run_sum_avx, 1, false },
	{ "sum-avx512", run_sum_avx512, 1, false },
	{ "signals", run_signals, 2, false },
	{ "sigreturn", run_sigreturn, 1, false },
	{ "timers", run_timers, 1, false },
	{ "clocks", run_clocks, 1, false },
	{ "pipes", run_pipes, 1, false },
	{ "forks", run_forks, 1, false },
	{ "execs", run_execs, 1, false },
	{ "memory", run_memory, 1, false },
	{ "protection", run_protection, 1, false },
	{ "cow", run_cow, 1, false },
	{ "files", run_files, 1, false },
	{ "threads", run_threads, 1, false },
	{ "counters", run_counters, 1, false },
	{ "steps", run_steps, 1, false },
	{ "breakpoints", run_breakpoints, 1, false },
	{ "traps", run_traps, 1, false },
	{ "interrupts", run_interrupts, 1, false },
	{ "privileged", run_privileged, 1, false },
	{ "ports", run_ports, 1, false },
	{ "dev-port", run_dev_port, 1, false },
	{ "i386", run_i386, 1, false },
	{ "syscalls", run_syscalls, 1, false },
	{ "pointers", run_pointers, 1, false },
	{ "segments", run_segments, 2, false },
	{ "kernel", run_kernel_addresses, 1, true },
	{ "compat", run_compat, 1, true },
	{ "avx-anyway", run_avx_anyway, 2, true },
	{ "timers-unjudged", run_timers_unjudged, 1, true },
};

#define WORKERS (sizeof(workers) / sizeof(workers[0]))

_Static_assert(WORKERS <= WORKERS_MAX, "WORKERS_MAX");

static void start(const struct worker *worker)
{
	struct slot *slot = &report->slots[worker - workers];

	become(worker->name, slot);
	for (int copy = 0; copy < worker->copies; copy++) {
		slot->pids[copy] = child();
		if (slot->pids[copy])
			continue;
		worker->run();
		_exit(0);
	}
}

/* Note that a process has ended, and how. */
static void bury(int pid, int status)
{
	for (size_t i = 0; i < WORKERS; i++)
		for (int copy = 0; copy < COPIES_MAX; copy++) {
			if (report->slots[i].pids[copy] != pid)
				continue;
			report->slots[i].pids[copy] = 0;
			become(workers[i].name, &report->slots[i]);
			expect(status == 0, "it ended with status 0x%x", status);
		}
}

static void name_the_late(void)
{
	for (size_t i = 0; i < WORKERS; i++)
		for (int copy = 0; copy < COPIES_MAX; copy++)
			if (report->slots[i].pids[copy])
				printf("stress: %s: still at work: %d\n",
				       workers[i].name, report->slots[i].pids[copy]);
}

/* Wait for one process to end, but no longer than until `end`; false: none is left. */
static bool wait_until(time_t end)
{
	struct timespec now, rest = { 0, 0 };
	sigset_t children;
	int status, pid;

	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		bury(pid, status);
	if (pid < 0)
		return false;
	clock_gettime(CLOCK_MONOTONIC, &now);
	rest.tv_sec = end > now.tv_sec ? end - now.tv_sec : 0;
	sigtimedwait(&children, NULL, &rest);
	return true;
}

static void run_for(long seconds)
{
	struct timespec now;
	time_t end;

	clock_gettime(CLOCK_MONOTONIC, &now);
	end = now.tv_sec + seconds;
	while (now.tv_sec < end && wait_until(end))
		clock_gettime(CLOCK_MONOTONIC, &now);
	report->stop = true;
	end = now.tv_sec + PATIENCE_S;
	while (wait_until(end)) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec < end)
			continue;
		name_the_late();
		end = now.tv_sec + PATIENCE_S;
	}
}

static bool print_report(long seconds)
{
	unsigned long all_wrong = 0, ran = 0;

	for (size_t i = 0; i < WORKERS; i++) {
		const struct slot *slot = &report->slots[i];

		if (slot->skipped) {
			printf("stress: %s: skipped: %s\n", workers[i].name,
			       slot->remark);
			continue;
		}
		if (!slot->iterations && !slot->wrong)
			continue; /* not asked for */
		printf("stress: %s: %lu iterations, %lu wrong%s%s%s\n", workers[i].name,
		       slot->iterations, slot->wrong, slot->without,
		       *slot->remark ? "; " : "", slot->remark);
		all_wrong += slot->wrong;
		ran++;
	}
	all_wrong += check_log();
	printf("stress: %ld s, %lu workers, %lu wrong\n", seconds, ran, all_wrong);
	return all_wrong == 0;
}

static bool named(const char *name, int argc, char **argv)
{
	for (int i = 0; i < argc; i++)
		if (!strcmp(argv[i], name))
			return true;
	return false;
}

static const char *no_worker(int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		bool found = false;

		for (size_t w = 0; w < WORKERS; w++)
			found |= !strcmp(argv[i], workers[w].name);
		if (!found)
			return argv[i];
	}
	return NULL;
}

/* Take it out of the words if the first one is a number. */
static long seconds_of(int *argc, char ***argv)
{
	char *end;
	long seconds = *argc ? strtol(**argv, &end, 10) : 10;

	if (!*argc || *end)
		return 10;
	++*argv;
	--*argc;
	return seconds;
}

int main(int argc, char **argv, char **envp)
{
	sigset_t children;
	long seconds;

	if (argc > 1 && !strcmp(argv[1], "executed"))
		return executed(argc, argv, envp);
	argv++;
	argc--;
	for (size_t i = 0; argc && !strcmp(*argv, "list") && i < WORKERS; i++)
		puts(workers[i].name);
	if (argc && !strcmp(*argv, "list"))
		return 0;
	seconds = seconds_of(&argc, &argv);
	if (no_worker(argc, argv)) {
		fprintf(stderr, "stress: no worker %s\n", no_worker(argc, argv));
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
	report = mmap(NULL, sizeof(*report), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (report == MAP_FAILED)
		return 1;
	/* For sigtimedwait(). */
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_BLOCK, &children, NULL);
	for (size_t i = 0; i < WORKERS; i++)
		if (argc ? named(workers[i].name, argc, argv)
			 : !workers[i].only_if_named)
			start(&workers[i]);
	run_for(seconds);
	return print_report(seconds) ? 0 : 1;
}
