/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What programs expect to find in / as they do in a container: /proc, /sys, /dev
 * with its nodes and links, /dev/pts, /dev/shm, /tmp.
 *
 * Made when the guest runs: for each entry of an archive, a kernel that is emulated
 * takes longer.  What a kernel hasn't got is no error: the guest does without.
 */
#ifndef FURNISH_H
#define FURNISH_H

#include <linux/mount.h>
#include <linux/stat.h>

#include "sys.h"

static long mount(const char *type, const char *target, long flags,
		  const char *options)
{
	sys2(__NR_mkdir, target, 0755);
	return sys(__NR_mount, (long)type, (long)target, (long)type, flags,
		   (long)options);
}

/* Character devices, where the kernel has no devtmpfs that makes them. */
static void make_nodes(void)
{
	static const struct {
		const char *path;
		unsigned int mode, major, minor;
	} nodes[] = {
		{ "/dev/console", 0600, 5, 1 }, { "/dev/null", 0666, 1, 3 },
		{ "/dev/zero", 0666, 1, 5 },	{ "/dev/full", 0666, 1, 7 },
		{ "/dev/random", 0666, 1, 8 },	{ "/dev/urandom", 0666, 1, 9 },
		{ "/dev/kmsg", 0600, 1, 11 },	{ "/dev/tty", 0666, 5, 0 },
		{ "/dev/ttyS0", 0600, 4, 64 },	{ "/dev/ttyS1", 0600, 4, 65 },
	};
	long mask = sys1(__NR_umask, 0);

	for (unsigned int i = 0; i < sizeof(nodes) / sizeof(nodes[0]); i++)
		sys3(__NR_mknod, nodes[i].path, S_IFCHR | nodes[i].mode,
		     nodes[i].major << 8 | nodes[i].minor);
	sys1(__NR_umask, mask);
}

/* Mount what everything else here needs. */
static void mount_kernel_file_systems(void)
{
	mount("proc", "/proc", 0, NULL);
	mount("sysfs", "/sys", 0, NULL);
	if (mount("devtmpfs", "/dev", 0, NULL) < 0)
		make_nodes();
}

/* Add what programs, shells and scripts use beyond that. */
static void furnish(void)
{
	long mask = sys1(__NR_umask, 0);

	/* Or `> /dev/stderr` makes a file there, which nobody sees. */
	sys2(__NR_symlink, "/proc/self/fd", "/dev/fd");
	sys2(__NR_symlink, "/proc/self/fd/0", "/dev/stdin");
	sys2(__NR_symlink, "/proc/self/fd/1", "/dev/stdout");
	sys2(__NR_symlink, "/proc/self/fd/2", "/dev/stderr");
	mount("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC,
	      "mode=620,ptmxmode=666,gid=5");
	sys2(__NR_symlink, "pts/ptmx", "/dev/ptmx");
	mount("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
	sys2(__NR_mkdir, "/tmp", 01777);
	sys1(__NR_umask, mask);
}

#endif
