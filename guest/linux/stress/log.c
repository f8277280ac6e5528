/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The kernel's log. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>

#include "report.h"

#define READ_ALL 3 /* syslog(2) */
#define SIZE_BUFFER 10

static bool is_bad(const char *line)
{
	static const char *const bad[] = {
		"BUG:",
		"BUG at",
		"Oops",
		"WARNING:",
		"general protection",
		"Bad page",
		"double fault",
		"stack-protector",
		"Call Trace",
		"cut here",
	};

	/* What a program of ours does that is not to work. */
	if (strstr(line, "traps: ") || strstr(line, "segfault at") ||
	    strstr(line, "]: bad frame in") || strstr(line, "pretending it's a NOP"))
		return false;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (strstr(line, bad[i]))
			return true;
	return false;
}

unsigned long check_log(void)
{
	int size = klogctl(SIZE_BUFFER, NULL, 0);
	char *log = size > 0 ? malloc(size + 1) : NULL;
	int got = log ? klogctl(READ_ALL, log, size) : -1;
	unsigned long lines = 0, found = 0;

	if (got < 0) {
		printf("stress: log: skipped: syslog (%s)\n", name_of(errno));
		return 0;
	}
	log[got] = 0;
	for (char *line = strtok(log, "\n"); line; line = strtok(NULL, "\n")) {
		lines++;
		if (!is_bad(line))
			continue;
		printf("stress: log: wrong: %s\n", line);
		found++;
	}
	printf("stress: log: %lu lines, %lu wrong\n", lines, found);
	free(log);
	return found;
}
