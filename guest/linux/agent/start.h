/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The agent as the first program of a guest, and the init that it makes way for.
 *
 * VMM_AGENT_INIT in its environment, which the kernel's command line puts there, names
 * that init: what the user has given as rdinit=; "-" for none.  Without it we look where
 * the kernel does.  Its file systems are its own to mount: all that we mount before it,
 * /proc, is gone when it runs.  Where there is no init we are it, and make what programs
 * look for.
 */
#ifndef AGENT_START_H
#define AGENT_START_H

#include <linux/fcntl.h>
#include <linux/mount.h>

#include "../furnish.h"
#include "spawn.h"

#define MNT_DETACH 2

static char cmdline[4096];

/* The last `init=` of the kernel's command line; NULL: there is none. */
static char *init_word(void)
{
	long fd = sys(__NR_openat, proc_fd, (long)"cmdline", O_RDONLY, 0, 0);
	char *found = NULL, *at = cmdline;
	long n;

	if (fd < 0)
		return NULL;
	n = sys3(__NR_read, fd, cmdline, sizeof(cmdline) - 1);
	sys1(__NR_close, fd);
	cmdline[n > 0 ? n : 0] = 0;
	while (*at) {
		char *word = at;

		while ((unsigned char)*at > ' ')
			at++;
		if (*at)
			*at++ = 0;
		while (*at && (unsigned char)*at <= ' ')
			at++;
		if (word[0] == '-' && word[1] == '-' && !word[2])
			break;
		if (word[0] == 'i' && word[1] == 'n' && word[2] == 'i' &&
		    word[3] == 't' && word[4] == '=')
			found = word + 5;
	}
	return found;
}

static int can_run(const char *path)
{
	return path && sys2(__NR_access, path, 1) == 0;
}

/* The program that is to be init; NULL: none. `asked` as VMM_AGENT_INIT has it. */
static const char *find_init(const char *asked)
{
	static const char *const usual[] = { "/init", NULL, "/sbin/init", "/etc/init",
					     "/bin/init" };

	if (asked)
		return can_run(asked) ? asked : NULL;
	for (unsigned int i = 0; i < sizeof(usual) / sizeof(usual[0]); i++) {
		const char *path = usual[i] ? usual[i] : init_word();

		if (can_run(path))
			return path;
	}
	return NULL;
}

/* Take VMM_AGENT_INIT out of the environment; its value, or NULL. */
static const char *take_asked(char **envp)
{
	const char *asked = variable(envp, "VMM_AGENT_INIT");

	if (!asked)
		return NULL;
	while (*envp != asked)
		envp++;
	do
		envp[0] = envp[1];
	while (*envp++);
	return asked + sizeof("VMM_AGENT_INIT=") - 1;
}

/* A device that may have no node yet, or one in another root: by one that goes again. */
static long open_device(const char *path, unsigned int minor, unsigned int major,
			int flags)
{
	static const char own[] = "/.vmm-agent-device";
	long fd = sys2(__NR_open, path, flags);

	if (fd >= 0 || fd == -EIO)
		return fd;
	sys3(__NR_mknod, own, S_IFCHR | 0600, major << 8 | minor);
	fd = sys2(__NR_open, own, flags);
	sys1(__NR_unlink, own);
	return fd;
}

/* Process 1 must not end: bury orphans for ever. */
static void stay(void)
{
	unsigned long child = 1ul << (SIGCHLD - 1);

	for (;;)
		if (sys(__NR_wait4, -1, 0, 0, 0, 0) < 0)
			sys(__NR_rt_sigtimedwait, (long)&child, 0, 0, sizeof(child), 0);
}

static void open_proc(void)
{
	proc_fd = sys2(__NR_open, "/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/*
 * Be process 1: make way for the user's init, if there is one, and be the daemon beside
 * it, which this returns in; or be init as well.
 */
static void begin_as_first(char **argv, char **envp)
{
	const char *init;
	long pid;

	mount("proc", "/proc", 0, NULL);
	open_proc();
	self_fd = sys2(__NR_open, "/proc/self/exe", O_PATH | O_CLOEXEC);
	init = find_init(take_asked(envp));
	if (!init) {
		sys2(__NR_umount2, "/proc", MNT_DETACH); /* once is enough */
		mount_kernel_file_systems();
		furnish();
		return;
	}
	sys2(__NR_umount2, "/proc", MNT_DETACH);
	pid = sys0(__NR_fork);
	if (pid == 0) {
		follow_init = 1;
		sys0(__NR_setsid);
		return;
	}
	argv[0] = (char *)init;
	sys3(__NR_execve, init, argv, envp);
	put(STDERR, "vmm-agent: the init can't be run, so there is none: ");
	put(STDERR, init);
	put(STDERR, "\n");
	stay();
}

#endif
