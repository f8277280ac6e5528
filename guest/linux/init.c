/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * init: the first program of our Linux guests.
 *
 * Mounts what it needs, says on the console that userspace is there, runs
 * /etc/guest.sh or a shell, says why it resets, and resets.  What it prints is
 * a contract with the programs that watch the console:
 *
 *	guest: userspace <sysname> <release> <machine> <version>
 *	guest: status <n>		exit status of what ran; 128+n: signal n
 *	guest: reset through the i8042	with reboot=k, else `guest: reset`
 *
 * Words of the kernel command line that it obeys:
 *
 *	guest.shell	without a script: an interactive shell on ttyS0, or hvc0
 *			where the console is on that
 *	guest.exit	init exits instead of resetting: the kernel panics
 *	GLIBC_TUNABLES=	what runs has it in its environment, as init has: on PVM
 *			programs are so told not to use AVX, which isn't saved
 *
 * No C library: see sys.h.
 */
#include <asm/ioctls.h>
#include <linux/fcntl.h>
#include <linux/reboot.h>
#include <linux/utsname.h>

#include "furnish.h"
#include "sys.h"

#define SCRIPT "/etc/guest.sh"
#define SHELL "/bin/sh"
#define ENOEXEC 8

static char cmdline[4096]; /* COMMAND_LINE_SIZE is 2048 on x86 */
static char text[1024];	   /* one line: five utsname fields of 65 at most */
static const char *env[] = {
	"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "HOME=/", "TERM=linux", NULL, NULL,
};

/* Open the console as descriptors 0, 1 and 2. */
static void open_console(const char *path)
{
	long fd = sys2(__NR_open, path, O_RDWR);

	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		if (fd != i)
			sys2(__NR_dup2, fd, i);
	if (fd > 2)
		sys1(__NR_close, fd);
}

static void read_cmdline(void)
{
	long fd = sys2(__NR_open, "/proc/cmdline", O_RDONLY);

	if (fd < 0)
		return;
	sys3(__NR_read, fd, cmdline, sizeof(cmdline) - 1);
	sys1(__NR_close, fd);
}

/* Whether `word` stands on the kernel command line, whole. */
static int asked(const char *word)
{
	const char *at = cmdline;

	while (*at) {
		size_t n = 0;

		while (at[n] && at[n] == word[n])
			n++;
		if (!word[n] && (unsigned char)at[n] <= ' ')
			return 1;
		while ((unsigned char)*at > ' ')
			at++;
		while (*at && (unsigned char)*at <= ' ')
			at++;
	}
	return 0;
}

static int exists(const char *path)
{
	return sys2(__NR_access, path, 0) == 0;
}

/* Say who we are, in one write so that a kernel message can't split the line. */
static void announce(void)
{
	struct new_utsname name;
	char *at = add(text, "guest: userspace ");

	sys1(__NR_uname, &name);
	at = add(add(at, name.sysname), " ");
	at = add(add(at, name.release), " ");
	at = add(add(at, name.machine), " ");
	add(add(at, name.version), "\n");
	put(STDOUT, text);
}

static void announce_status(int status)
{
	int signal = status & 0x7f;
	int code = signal ? 128 + signal : status >> 8 & 0xff;

	add(add_number(add(text, "guest: status "), code, 10), "\n");
	put(STDOUT, text);
}

static void exec(const char *path, const char *name, const char *argument)
{
	const char *const argv[] = { name, argument, NULL };

	/* A script without #! is the shell's to run. */
	if (sys3(__NR_execve, path, argv, env) == -ENOEXEC) {
		const char *const by_shell[] = { SHELL, path, NULL };

		sys3(__NR_execve, SHELL, by_shell, env);
	}
}

/* The child's side: become the script or the shell; never returns. */
static void become(int shell)
{
	if (shell) {
		/* Job control and Ctrl-C need a session with a terminal. */
		sys0(__NR_setsid);
		open_console(asked("console=hvc0") ? "/dev/hvc0" : "/dev/ttyS0");
		sys3(__NR_ioctl, STDIN, TIOCSCTTY, 1);
		exec(SHELL, "-sh", NULL); /* the dash: a login shell */
	} else {
		exec(SCRIPT, SCRIPT, NULL);
	}
	put(STDOUT, shell ? "guest: cannot run " SHELL "\n"
			  : "guest: cannot run " SCRIPT "\n");
	sys1(__NR_exit_group, 127);
}

/* Run the script or the shell to its end, burying orphans; return wait status. */
static int run(int shell)
{
	int status = 0;
	long child, dead;

	furnish();
	child = sys0(__NR_fork);
	if (child == 0)
		become(shell);
	do
		dead = sys(__NR_wait4, -1, (long)&status, 0, 0, 0);
	while (dead > 0 && dead != child);
	return dead == child ? status : 127 << 8;
}

int main(int argc, char **argv, char **envp)
{
	(void)argc;
	(void)argv;
	env[3] = variable(envp, "GLIBC_TUNABLES");
	mount_kernel_file_systems();
	open_console("/dev/console");
	read_cmdline();
	announce();

	if (exists(SCRIPT))
		announce_status(run(0));
	else if (asked("guest.shell") && exists(SHELL))
		announce_status(run(1));

	sys0(__NR_sync);
	if (asked("guest.exit")) {
		put(STDOUT, "guest: exit, the kernel will panic\n");
		sys3(__NR_ioctl, STDOUT, TCSBRK, 1);
		return 0;
	}
	put(STDOUT, asked("reboot=k") ? "guest: reset through the i8042\n"
				      : "guest: reset\n");
	/* Drain: what still waits for the transmitter would be lost. */
	sys3(__NR_ioctl, STDOUT, TCSBRK, 1);
	sys(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
	    LINUX_REBOOT_CMD_RESTART, 0, 0);
	put(STDOUT, "guest: the reset failed\n");
	return 1;
}
