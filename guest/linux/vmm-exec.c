/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vmm-exec: the first program of a guest that runs one command.
 *
 * The VMM puts it and /vmm-exec.argv into the initramfs and boots with
 * rdinit=/vmm-exec.  That file holds strings, each with its NUL: where the output
 * goes ("" for the console, or the path of a terminal), and then the command's argv.
 *
 * The command has what furnish.h makes, cwd /, a PATH and /dev/null as stdin; of our
 * own environment, which is what the kernel didn't understand of its command line, it
 * has GLIBC_TUNABLES: without it programs use AVX where PVM's kernels don't save it.
 * When it has ended, a word goes to port 0x501 (that of QEMU's isa-debug-exit): the low
 * byte is its status, 128+n for signal n; the high byte is 0, or why it did not start:
 * an errno, or one of NO_OUTPUT, NO_INTERPRETER and CRLF, which are none.
 *
 * No C library: see sys.h.
 */
#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <linux/fcntl.h>
#include <linux/reboot.h>

#include "furnish.h"
#include "sys.h"

#define ARGV_FILE "/vmm-exec.argv"
#define SHELL "/bin/sh"
#define BUSYBOX "/bin/busybox"
#define EXIT_PORT 0x501
#define NO_OUTPUT 0xff
#define NO_INTERPRETER 0xfe
#define CRLF 0xfd
#define ARG_MAX 256
#define PATHS "PATH=/bin:/sbin:/usr/bin:/usr/sbin"

#define ENOENT 2
#define ENOEXEC 8
#define EACCES 13
#define E2BIG 7

static char words[65536]; /* of ARGV_FILE */
static const char *argv[ARG_MAX + 3];
static char path[4096];
static const char *env[] = { PATHS, "HOME=/", "TERM=dumb", NULL, NULL };

/* Make `fd` the descriptors `first` to 2; `fd` itself goes if it is above. */
static void become(long fd, int first)
{
	for (int i = first; i < 3; i++)
		if (fd != i)
			sys2(__NR_dup2, fd, i);
	if (fd > 2)
		sys1(__NR_close, fd);
}

/* Send stdout and stderr to the terminal, untouched on the way; 0 if there is none. */
static int open_output(const char *terminal)
{
	struct termios settings;
	long fd = sys2(__NR_open, terminal, O_RDWR | O_NOCTTY);
	int lines;

	/* Root may open a UART that isn't there; all else is EIO then. */
	if (fd < 0 || sys3(__NR_ioctl, fd, TIOCMGET, &lines) < 0 ||
	    sys3(__NR_ioctl, fd, TCGETS, &settings) < 0)
		return 0;
	settings.c_oflag &= ~OPOST; /* no \n to \r\n */
	settings.c_lflag &= ~(ECHO | ICANON | ISIG);
	settings.c_cflag |= CLOCAL;
	sys3(__NR_ioctl, fd, TCSETS, &settings);
	become(fd, 1);
	return 1;
}

/* Split ARGV_FILE into `argv`; return an errno. */
static int read_argv(void)
{
	long fd = sys2(__NR_open, ARGV_FILE, O_RDONLY);
	long size, at = 0;
	int n = 0;

	if (fd < 0)
		return -fd;
	size = sys3(__NR_read, fd, words, sizeof(words));
	sys1(__NR_close, fd);
	if (size == sizeof(words))
		return E2BIG;
	while (at < size && n < ARG_MAX + 1) {
		argv[n++] = words + at;
		at += length(words + at) + 1;
	}
	if (at < size)
		return E2BIG;
	return n > 1 ? 0 : ENOENT;
}

/* Whether the first line of `file` ends as Windows writes it. */
static int is_crlf(const char *file)
{
	static char line[256]; /* as much as the kernel looks at */
	long fd = sys2(__NR_open, file, O_RDONLY);
	long size = fd < 0 ? 0 : sys3(__NR_read, fd, line, sizeof(line));

	if (fd >= 0)
		sys1(__NR_close, fd);
	for (long i = 1; i < size && line[0] != 0x7f; i++) /* no ELF */
		if (line[i] == '\n')
			return line[i - 1] == '\r';
	return 0;
}

/*
 * Run `file` with argv; return an errno, or what is wrong with a file that is there:
 * the kernel says ENOENT for the interpreter or the dynamic loader, too.  A script
 * without #! is the shell's.
 */
static int exec(const char *file, const char **args)
{
	int error = -sys3(__NR_execve, file, args, env);

	if ((error == ENOENT || error == ENOEXEC) && is_crlf(file))
		return CRLF;
	if (error == ENOENT && sys2(__NR_access, file, 0) == 0)
		return NO_INTERPRETER;
	if (error == ENOEXEC && sys2(__NR_access, SHELL, 0) == 0) {
		/* argv[-1] is the output's name, which nobody needs any more. */
		args[-1] = SHELL;
		args[0] = file;
		error = -sys3(__NR_execve, SHELL, args - 1, env);
	}
	return error;
}

/*
 * Look for the command along PATH as execvp(3) does; return an errno. A busybox
 * knows commands that nothing in PATH leads to, its shell runs them, too.
 */
static int exec_along_path(const char **args)
{
	const char *at = PATHS + sizeof("PATH=") - 1;
	int found = ENOENT;

	for (const char *c = args[0]; *c; c++)
		if (*c == '/')
			return exec(args[0], args);
	if (length(args[0]) > sizeof(path) - 32)
		return ENOENT;
	while (*at) {
		char *to = path;
		int error;

		while (*at && *at != ':')
			*to++ = *at++;
		if (*at)
			at++;
		add(add(to, "/"), args[0]);
		error = exec(path, args);
		if (error != ENOENT)
			found = error;
	}
	return found == ENOENT ? exec(BUSYBOX, args) : found;
}

/* Run the command to its end, burying orphans; return the word for the port. */
static unsigned int run(void)
{
	int report[2], error = 0, status = 0;
	long child, dead;

	/* Tells why the exec failed; closed by it if it didn't. */
	sys2(__NR_pipe2, report, O_CLOEXEC);
	child = sys0(__NR_fork);
	if (child == 0) {
		error = exec_along_path(argv + 1);
		sys3(__NR_write, report[1], &error, sizeof(error));
		sys1(__NR_exit_group,
		     error == ENOENT || error == NO_INTERPRETER ? 127 : 126);
	}
	if (child < 0)
		return 126 | -child << 8;
	sys1(__NR_close, report[1]);
	sys3(__NR_read, report[0], &error, sizeof(error));
	do
		dead = sys(__NR_wait4, -1, (long)&status, 0, 0, 0);
	while (dead > 0 && dead != child);
	if (status & 0x7f)
		return 128 + (status & 0x7f);
	return (status >> 8 & 0xff) | (error & 0xff) << 8;
}

/* Write the word to the port; where the kernel lets nobody, return. */
static void tell(unsigned int word)
{
	long fd;

	if (sys1(__NR_iopl, 3) == 0) {
		__asm__ volatile("outw %w0, %w1" : : "a"(word), "Nd"(EXIT_PORT));
		return;
	}
	fd = sys2(__NR_open, "/dev/port", O_RDWR);
	/* It writes bytes: the low one ends the run, so it comes last. */
	if (fd >= 0)
		for (int i = 1; i >= 0; i--) {
			unsigned char byte = word >> 8 * i;

			sys(__NR_pwrite64, fd, (long)&byte, 1, EXIT_PORT + i, 0);
		}
}

int main(int argc, char **own_argv, char **envp)
{
	unsigned int word;
	int error;

	(void)argc;
	(void)own_argv;
	env[3] = variable(envp, "GLIBC_TUNABLES");
	mount_kernel_file_systems();
	furnish();
	become(sys2(__NR_open, "/dev/console", O_RDWR), 0);
	sys1(__NR_chdir, "/");
	error = read_argv();
	if (error)
		word = 126 | error << 8;
	else if (*argv[0] && !open_output(argv[0]))
		word = 126 | NO_OUTPUT << 8;
	else {
		long null = sys2(__NR_open, "/dev/null", O_RDONLY);

		sys2(__NR_dup2, null, STDIN);
		if (null > 2)
			sys1(__NR_close, null);
		word = run();
	}
	sys0(__NR_sync);
	/* Drain: what still waits for the transmitter would be lost. */
	sys3(__NR_ioctl, STDOUT, TCSBRK, 1);
	tell(word);

	become(sys2(__NR_open, "/dev/console", O_RDWR), 0);
	put(STDOUT, "vmm-exec: nobody was told the command's status: it takes "
		    "CONFIG_X86_IOPL_IOPERM or CONFIG_DEVPORT, and a VMM that listens\n");
	sys3(__NR_ioctl, STDOUT, TCSBRK, 1);
	sys(__NR_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2,
	    LINUX_REBOOT_CMD_RESTART, 0, 0);
	return 1;
}
