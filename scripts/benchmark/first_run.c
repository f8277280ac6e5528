/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Preloaded into a VMM (ld.so(8), LD_PRELOAD): writes the time of its first KVM_RUN,
 * CLOCK_MONOTONIC in ns, to the file that FIRST_RUN names.  Works for whatever calls
 * the C library's ioctl, which all do that we know.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void note(void)
{
	const char *path = getenv("FIRST_RUN");
	struct timespec now;
	int fd;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!path)
		return;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	dprintf(fd, "%lld\n", now.tv_sec * 1000000000LL + now.tv_nsec);
	close(fd);
}

int ioctl(int fd, unsigned long request, ...)
{
	static int noted;
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (request == KVM_RUN && !__atomic_exchange_n(&noted, 1, __ATOMIC_RELAXED)) {
		int before = errno;

		note();
		errno = before;
	}
	return syscall(SYS_ioctl, fd, request, argument);
}
