/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The report, as far as it is more than its lines: main.c prints it, workers add. */
#ifndef REPORT_H
#define REPORT_H

#include <stdbool.h>

#define WORKERS_MAX 64
#define COPIES_MAX 3

/* A worker's part of the report. */
struct slot {
	unsigned long iterations, wrong;
	bool skipped;
	char remark[128];
	char without[256];
	int pids[COPIES_MAX]; /* 0: ended */
};

/* In memory that all processes share. */
struct report {
	volatile bool stop;
	struct slot slots[WORKERS_MAX];
};

extern struct report *report;

/* From now on this process tells what it tells for that worker. */
void become(const char *name, struct slot *slot);

/* An errno's name. */
const char *name_of(int error);

/* Look for oopses in the kernel's log; return how many lines are wrong. */
unsigned long check_log(void);

#endif
