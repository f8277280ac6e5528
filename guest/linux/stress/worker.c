/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What workers call: see stress.h. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "report.h"
#include "stress.h"

#define TOLD_MAX 5 /* wrongs of a worker that are told in full */

struct report *report;

static const char *my_name = "main";
static struct slot *me;
static uint64_t random_state;

void become(const char *name, struct slot *slot)
{
	my_name = name;
	me = slot;
}

static void say(const char *format, va_list arguments)
{
	char line[512];
	int n = snprintf(line, sizeof(line), "stress: %s: wrong: ", my_name);

	n += vsnprintf(line + n, sizeof(line) - n - 1, format, arguments);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n] = '\n';
	/* In one, so that others' lines don't get in between. */
	if (write(STDOUT_FILENO, line, n + 1) < 0)
		_exit(1);
}

void wrong(const char *format, ...)
{
	va_list arguments;

	if (__atomic_fetch_add(&me->wrong, 1, __ATOMIC_RELAXED) >= TOLD_MAX)
		return;
	va_start(arguments, format);
	say(format, arguments);
	va_end(arguments);
}

bool stopping(void)
{
	return report->stop;
}

bool next(void)
{
	static bool begun;

	if (begun && stopping())
		return false;
	begun = true;
	__atomic_fetch_add(&me->iterations, 1, __ATOMIC_RELAXED);
	return true;
}

const char *name_of(int error)
{
	const char *name = strerrorname_np(error);

	return name ? name : "?";
}

void without(const char *what, int error)
{
	size_t used = strlen(me->without);

	if (!strstr(me->without, what))
		snprintf(me->without + used, sizeof(me->without) - used,
			 error ? ", without %s (%s)" : ", without %s", what,
			 name_of(error));
}

void skip(const char *what, int error)
{
	snprintf(me->remark, sizeof(me->remark), error ? "%s (%s)" : "%s", what,
		 name_of(error));
	me->skipped = true;
	_exit(0);
}

void tell(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(me->remark, sizeof(me->remark), format, arguments);
	va_end(arguments);
}

/* Source: Vigna's splitmix64, which is in the public domain. */
static uint64_t splitmix64(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

uint64_t random64(void)
{
	return splitmix64(&random_state);
}

void fill_bytes(unsigned char *bytes, size_t size, uint64_t seed)
{
	for (size_t i = 0; i < size; i += 8) {
		uint64_t word = splitmix64(&seed);

		memcpy(bytes + i, &word, size - i < 8 ? size - i : 8);
	}
}

bool same_bytes(const unsigned char *bytes, size_t size, uint64_t seed)
{
	for (size_t i = 0; i < size; i += 8) {
		uint64_t word = splitmix64(&seed);

		if (memcmp(bytes + i, &word, size - i < 8 ? size - i : 8))
			return false;
	}
	return true;
}

void *map_pages(size_t size, int protection)
{
	void *pages = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages != MAP_FAILED)
		return pages;
	wrong("mmap of %lu bytes: %s", size, strerror(errno));
	_exit(1);
}

/* The child's patterns are others than its parent's; it goes when that goes. */
static void be_born(void)
{
	random_state = (uint64_t)getpid() << 32;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

int child(void)
{
	int pid = fork();

	if (pid < 0) {
		wrong("fork: %s", strerror(errno));
		_exit(1);
	}
	if (pid == 0)
		be_born();
	return pid;
}

int ended(int pid)
{
	int status;

	while (waitpid(pid, &status, 0) != pid)
		if (errno != EINTR) {
			wrong("wait for %d: %s", pid, strerror(errno));
			return -1000;
		}
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}
