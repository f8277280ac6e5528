/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Timers of all kinds, which have to be on time: a wait of n ticks ends with tick n
 * or n+1 after its start (the start was in between two), and a task that has
 * precedence over all others then runs by the next tick.
 *
 * A busy host makes no timer late.  Ticks are counted by the timer's interrupts: while
 * the host doesn't run this CPU there are none, and one for all that were missed.  What
 * the host took in small pieces, between one tick and the next, is subtracted from what
 * the clock says.  Programs of the same guest do make timers late, unless the waiting
 * threads are real-time ones; so they are, and where they can't be, nothing is judged.
 *
 * What a busy host still makes late is a console: whoever prints a line prints those of
 * all others, too, and doesn't give way until the last exit of the last one.  Where a
 * host may be busy, timers-unjudged has all but this: what comes too early, or never.
 *
 * A kernel without HIGH_RES_TIMERS and with a periodic tick is meant, of 100 Hz; on
 * others nothing is judged, either.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "stress.h"

#define TICK_NS 10000000L
#define TICKS_MAX 7
#define LATE_MAX 2 /* ticks */

static bool real_time, unjudged;

static struct timespec now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time;
}

static long between(struct timespec begin, struct timespec end)
{
	return (end.tv_sec - begin.tv_sec) * 1000000000 + end.tv_nsec - begin.tv_nsec;
}

/* Whether an interrupt of the timer is a tick. */
static bool low_resolution(void)
{
	struct timespec resolution;

	clock_getres(CLOCK_MONOTONIC, &resolution);
	return resolution.tv_nsec == TICK_NS;
}

/* A number in a file of /proc: behind `key`, and `skipped` other numbers; -1: none. */
static long number_in(const char *path, int *fd, const char *key, int skipped)
{
	char text[4096], *at;
	ssize_t size;
	long number;

	if (*fd < 0)
		*fd = open(path, O_RDONLY);
	size = *fd < 0 ? -1 : pread(*fd, text, sizeof(text) - 1, 0);
	if (size < 0)
		return -1;
	text[size] = 0;
	at = strstr(text, key);
	if (!at)
		return -1;
	at += strlen(key);
	do
		number = strtol(at, &at, 10);
	while (skipped--);
	return number;
}

/* How many ticks there were: the local APIC's timer interrupts; -1: unknown. */
static long ticks_seen(void)
{
	static int fd = -1;

	return low_resolution() ? number_in("/proc/interrupts", &fd, "LOC:", 0) : -1;
}

/* What the host took away, in ticks. */
static long ticks_stolen(void)
{
	static int fd = -1;

	return number_in("/proc/stat", &fd, "cpu ", 7);
}

static struct timespec after(struct timespec time, long ticks)
{
	time.tv_nsec += ticks * TICK_NS;
	time.tv_sec += time.tv_nsec / 1000000000;
	time.tv_nsec %= 1000000000;
	return time;
}

static struct timespec length(long ticks)
{
	return after((struct timespec){ 0, 0 }, ticks);
}

static void sleep_relative(long ticks)
{
	struct timespec rest = length(ticks);

	expect(clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, NULL) == 0, "nanosleep");
}

static void sleep_absolute(long ticks)
{
	struct timespec end = after(now(), ticks);

	expect(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == 0,
	       "nanosleep until");
}

static void wait_by_poll(long ticks)
{
	expect(poll(NULL, 0, ticks * TICK_NS / 1000000) == 0, "poll: errno %d", errno);
}

static void wait_by_futex(long ticks)
{
	struct timespec rest = length(ticks);
	int word = 0;

	expect(syscall(SYS_futex, &word, 0 /* WAIT */, 0, &rest) == -1 &&
		       errno == ETIMEDOUT,
	       "futex: errno %d", errno);
}

static void wait_for_signal(long ticks)
{
	struct timespec rest = length(ticks);
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2); /* which nobody sends */
	expect(sigtimedwait(&set, NULL, &rest) == -1 && errno == EAGAIN,
	       "sigtimedwait: errno %d", errno);
}

/* Take the signal, which all threads block. */
static void take(int number)
{
	sigset_t set;
	int got;

	sigemptyset(&set);
	sigaddset(&set, number);
	expect(sigwait(&set, &got) == 0 && got == number, "signal %d for %d", got,
	       number);
}

static void wait_by_itimer(long ticks)
{
	struct itimerval alarm = { { 0, 0 }, { 0, ticks * TICK_NS / 1000 } };

	expect(setitimer(ITIMER_REAL, &alarm, NULL) == 0, "setitimer: errno %d", errno);
	take(SIGALRM);
}

static void wait_by_posix_timer(long ticks)
{
	static timer_t timer;
	static bool made;
	struct itimerspec alarm = { .it_value = length(ticks) };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL,
				  .sigev_signo = SIGRTMIN };

	if (!made && timer_create(CLOCK_MONOTONIC, &event, &timer)) {
		without("timer_create", errno);
		return sleep_relative(ticks);
	}
	made = true;
	expect(timer_settime(timer, 0, &alarm, NULL) == 0, "timer_settime: errno %d",
	       errno);
	take(SIGRTMIN);
}

static void wait_by_timerfd(long ticks)
{
	static int fd = -1;
	struct itimerspec alarm = { .it_value = length(ticks) };
	uint64_t times;

	if (fd < 0)
		fd = timerfd_create(CLOCK_MONOTONIC, 0);
	if (fd < 0) {
		without("timerfd", errno);
		return sleep_relative(ticks);
	}
	expect(timerfd_settime(fd, 0, &alarm, NULL) == 0, "timerfd: errno %d", errno);
	expect(read(fd, &times, sizeof(times)) == sizeof(times) && times == 1,
	       "timerfd");
}

static struct kind {
	const char *name;
	void (*wait)(long ticks);
	/* What was late is told afterwards: a line on a console takes a tick. */
	long late, late_ticks, late_ns; /* how many, and the last of them */
	long latest, latest_ns;		/* of all */
} kinds[] = {
	{ .name = "nanosleep", .wait = sleep_relative },
	{ .name = "nanosleep until", .wait = sleep_absolute },
	{ .name = "poll", .wait = wait_by_poll },
	{ .name = "futex", .wait = wait_by_futex },
	{ .name = "sigtimedwait", .wait = wait_for_signal },
	{ .name = "setitimer", .wait = wait_by_itimer },
	{ .name = "timer_create", .wait = wait_by_posix_timer },
	{ .name = "timerfd", .wait = wait_by_timerfd },
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

/*
 * Whether a wait that began when `stolen` ticks were gone is late beyond what the host
 * explains.  The kernel adds up at each tick, and tells whole ones.
 */
static bool is_late(long late, long late_ns, long stolen)
{
	if (late <= LATE_MAX || late_ns <= LATE_MAX * TICK_NS)
		return false;
	sleep_relative(1);
	return late_ns > (LATE_MAX + ticks_stolen() - stolen + 1) * TICK_NS;
}

/* One wait; nothing is judged if there was no tick to count. */
static void wait_once(struct kind *kind, long ticks)
{
	long seen = ticks_seen(), stolen = ticks_stolen(), late, late_ns;
	struct timespec begun = now();

	kind->wait(ticks);
	late_ns = between(begun, now()) - ticks * TICK_NS;
	late = seen < 0 ? 0 : ticks_seen() - seen - ticks;
	expect(late_ns >= 0, "%s: %ld ns before its time", kind->name, -late_ns);
	if (is_late(late, late_ns, stolen)) {
		kind->late++;
		kind->late_ticks = late;
		kind->late_ns = late_ns;
	}
	if (late > kind->latest)
		kind->latest = late;
	if (late_ns > kind->latest_ns)
		kind->latest_ns = late_ns;
}

static void *wait_again_and_again(void *argument)
{
	struct kind *kind = argument;
	unsigned int seed = kind - kinds;

	while (next())
		wait_once(kind, rand_r(&seed) % TICKS_MAX + 1);
	return NULL;
}

/* Before all others of this guest; or at least before those of equal rank. */
static void get_ahead(void)
{
	struct sched_param parameters = { .sched_priority = 50 };

	real_time = sched_setscheduler(0, SCHED_FIFO, &parameters) == 0;
	if (real_time)
		return;
	without("SCHED_FIFO", errno);
	setpriority(PRIO_PROCESS, 0, -20);
}

/* Tell what was late; return the latest of all by the clock. */
static long judge(long *latest)
{
	long latest_ns = 0;

	for (struct kind *kind = kinds; kind < kinds + KINDS; kind++) {
		expect(!kind->late || !real_time || unjudged,
		       "%s: late %ld times, the last one by %ld ticks, %ld us",
		       kind->name, kind->late, kind->late_ticks, kind->late_ns / 1000);
		if (kind->latest > *latest)
			*latest = kind->latest;
		if (kind->latest_ns > latest_ns)
			latest_ns = kind->latest_ns;
	}
	return latest_ns;
}

void run_timers(void)
{
	struct timespec begun = now();
	long before = ticks_stolen(), seen = ticks_seen(), latest = 0, latest_ns;
	pthread_t threads[KINDS];
	sigset_t set;

	get_ahead();
	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (size_t i = 0; i < KINDS; i++)
		if (pthread_create(&threads[i], NULL, wait_again_and_again, &kinds[i]))
			return wrong("no thread");
	for (size_t i = 0; i < KINDS; i++)
		pthread_join(threads[i], NULL);
	if (seen < 0)
		without("ticks to count", 0);
	latest_ns = judge(&latest);
	tell("the latest by %ld ticks, by the clock %ld ms;"
	     " %ld ticks in %ld ms, %ld0 ms stolen",
	     latest, latest_ns / 1000000, ticks_seen() - seen,
	     between(begun, now()) / 1000000, ticks_stolen() - before);
}

void run_timers_unjudged(void)
{
	unjudged = true;
	run_timers();
}
