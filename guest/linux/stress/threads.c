/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Threads: futexes, what is their own, and a lock that counts. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stress.h"

#define THREADS 4
#define TURNS 10

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static int turns, counter;
static __thread volatile long own;
static __thread volatile sig_atomic_t signals;

static void handler(int number)
{
	(void)number;
	signals++;
}

/* In turn, each waits for its own; and adds up what only the lock protects. */
static void *take_turns(void *argument)
{
	long mine = (long)argument;

	own = mine;
	for (int i = 0; i < TURNS; i++) {
		pthread_mutex_lock(&lock);
		while (turns % THREADS != mine)
			pthread_cond_wait(&turned, &lock);
		turns++;
		pthread_cond_broadcast(&turned);
		pthread_mutex_unlock(&lock);
		pthread_mutex_lock(&lock);
		int seen = counter;

		sched_yield();
		counter = seen + 1;
		pthread_mutex_unlock(&lock);
		expect(own == mine, "a thread's variable is %ld, not %ld", own, mine);
	}
	pthread_kill(pthread_self(), SIGUSR1);
	expect(signals == 1, "a thread's own signal came %d times", (int)signals);
	return (void *)(mine + 1);
}

static void check_turns(void)
{
	pthread_t threads[THREADS];
	void *result;

	turns = counter = 0;
	for (long i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, take_turns, (void *)i)) {
			wrong("no thread: errno %d", errno);
			_exit(1);
		}
	for (long i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &result);
		expect(result == (void *)(i + 1), "thread %ld returned %p", i, result);
	}
	expect(turns == THREADS * TURNS && counter == turns, "%d turns, %d counted",
	       turns, counter);
}

static long futex(int *word, int operation, int value)
{
	return syscall(SYS_futex, word, operation, value, NULL, NULL, 0) < 0 ? -errno
									     : 0;
}

static void check_futex(void)
{
	int word = 1;
	long result = futex(&word, 0 /* WAIT */, 2);

	expect(result == -EAGAIN, "a futex that has another value: %ld", result);
	result = futex(&word, 1 /* WAKE */, 1);
	expect(result == 0, "a futex that nobody waits for: %ld", result);
	result = futex((int *)1, 0, 0);
	expect(result == -EINVAL, "a futex at an odd address: %ld", result);
	result = futex((int *)8, 0, 0);
	expect(result == -EFAULT, "a futex that isn't there: %ld", result);
}

/* A process that goes while its threads are at work. */
static void *work_on(void *argument)
{
	for (;;)
		sched_yield();
	return argument;
}

static void check_sudden_exit(void)
{
	int pid = child();
	pthread_t thread;

	if (pid == 0) {
		for (int i = 0; i < THREADS; i++)
			if (pthread_create(&thread, NULL, work_on, NULL))
				_exit(1);
		sched_yield();
		_exit(7);
	}
	pid = ended(pid);
	expect(pid == 7, "a process with threads: status %d, not 7", pid);
}

void run_threads(void)
{
	signal(SIGUSR1, handler);
	while (next()) {
		check_turns();
		check_futex();
		check_sudden_exit();
	}
}
