/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * How a command is started: its descriptors, its session, its root, its user; then exec.
 *
 * An order: flags u8, what they say that follows, cwd, the variables, the arguments, each
 * with its NUL.
 *
 * The child borrows our memory until it is another program, as after vfork(2): nothing
 * is copied, and what it finds wrong it leaves in `spawn_failure`.
 */
#ifndef AGENT_SPAWN_H
#define AGENT_SPAWN_H

#include <asm/ioctls.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/stat.h>
#include <linux/wait.h>

#include "../sys.h"
#include "frame.h"

#define ORDER_MAX 65536
#define WORDS 1024
#define SHELL "/bin/sh"
#define PATHS "/bin:/sbin:/usr/bin:/usr/sbin"
#define OOM_SCORE "self/oom_score_adj"

/* An order's flags. */
#define ON_TERMINAL 1	/* rows u16, columns u16 follow */
#define ERR_IS_OUT 2
#define HAS_INPUT 4	/* else stdin is /dev/null */
#define HAS_ENV 8	/* a number u16 of variables follows; else it has ours */
#define AS_USER 16	/* uid u32, gid u32 follow */
#define OWN_TOOL 32	/* one of files.h: it is our own program that runs */
#define TELL_START 64	/* that it runs, and its pid */

/* Where it failed: what an errno is about. */
enum stage { AT_START, AT_CHDIR, AT_USER, AT_EXEC, AT_INTERPRETER, AT_TERMINAL };

struct order {
	unsigned int flags, rows, columns, uid, gid;
	const char *cwd;
};

static unsigned char order[ORDER_MAX]; /* of RUN, and the RUN_MOREs before it */
static size_t order_size;
static const char *own_env[8], *words[WORDS + 4], *environment[WORDS + 2];
static const char **const arguments = words + 1; /* a shell fits before them */
static int proc_fd = -1, self_fd = -1;
static int follow_init; /* commands have the root of process 1, which may move */
static char child_stack[16384] __attribute__((aligned(16)));
static char file_name[4096];
static volatile struct {
	int error, stage;
} spawn_failure;
static long spawned;
static struct {
	const struct order *order;
	int fds[3];
	int slave;
} child;

/* Take `count` numbers of 16 bits; 0 if there aren't so many. */
static int take16(const unsigned char **at, const unsigned char *end,
		  unsigned int *to, int count)
{
	if (end - *at < 2 * count)
		return 0;
	for (; count; count--, *at += 2)
		*to++ = get16(*at);
	return 1;
}

/* Take the order apart; return an errno. */
static int parse_order(struct order *to)
{
	const unsigned char *at = order, *end = order + order_size;
	unsigned int numbers[4], variables = 0, n = 0, v = 0;

	spawn_failure.stage = AT_START;
	if (order_size < 3 || order_size >= ORDER_MAX || end[-1])
		return E2BIG;
	to->flags = *at++;
	to->rows = to->columns = 0;
	to->uid = to->gid = ~0u;
	if (to->flags & ON_TERMINAL) {
		if (!take16(&at, end, numbers, 2))
			return EINVAL;
		to->rows = numbers[0];
		to->columns = numbers[1];
	}
	if (to->flags & AS_USER) {
		if (!take16(&at, end, numbers, 4))
			return EINVAL;
		to->uid = numbers[0] | numbers[1] << 16;
		to->gid = numbers[2] | numbers[3] << 16;
	}
	if (to->flags & HAS_ENV && !take16(&at, end, &variables, 1))
		return EINVAL;
	to->cwd = (const char *)at;
	while ((at += length((const char *)at) + 1) < end) {
		if (v < variables && v < WORDS)
			environment[v++] = (const char *)at;
		else if (n < WORDS)
			arguments[n++] = (const char *)at;
		else
			return E2BIG;
	}
	arguments[n] = NULL;
	environment[v] = NULL;
	if (!n || v < variables)
		return EINVAL;
	if (!(to->flags & HAS_ENV))
		for (n = 0; n < 8; n++)
			environment[n] = own_env[n];
	return 0;
}

static void fail(int error, enum stage stage)
{
	spawn_failure.error = error;
	spawn_failure.stage = stage;
	sys1(__NR_exit, 127);
	__builtin_unreachable();
}

/* Try `file`; return an errno. A script without #! is the shell's. */
static int try_exec(const char *file)
{
	int error = -sys3(__NR_execve, file, arguments, environment);

	if (error == ENOENT && sys2(__NR_access, file, 0) == 0)
		spawn_failure.stage = AT_INTERPRETER;
	if (error == ENOEXEC && sys2(__NR_access, SHELL, 0) == 0) {
		const char *name = arguments[0];

		words[0] = SHELL;
		arguments[0] = file;
		error = -sys3(__NR_execve, SHELL, words, environment);
		arguments[0] = name;
	}
	return error;
}

/* Look for the command along its PATH as execvp(3) does; return an errno. */
static int exec_along_path(void)
{
	const char *path = variable((char **)environment, "PATH");
	int found = ENOENT;

	for (const char *c = arguments[0]; *c; c++)
		if (*c == '/')
			return try_exec(arguments[0]);
	path = path ? path + sizeof("PATH=") - 1 : PATHS;
	while (*path && *arguments[0]) {
		size_t n = 0;
		int error;

		while (path[n] && path[n] != ':')
			n++;
		if (n + length(arguments[0]) + 2 <= sizeof(file_name)) {
			for (size_t i = 0; i < n; i++)
				file_name[i] = path[i];
			add(add(file_name + n, n ? "/" : "./"), arguments[0]);
			error = try_exec(file_name);
			if (error != ENOENT && error != ENOTDIR)
				found = error;
			else if (spawn_failure.stage == AT_INTERPRETER)
				return error;
		}
		path += path[n] ? n + 1 : n;
	}
	return found;
}

/* As the kernel's struct sigaction has it. */
struct action {
	void (*handler)(int);
	unsigned long flags;
	void (*restorer)(void);
	unsigned long mask;
};

static void set_action(int number, void (*handler)(int), void (*restorer)(void))
{
	struct action action = { handler, SA_RESTORER, restorer, 0 };

	sys(__NR_rt_sigaction, number, (long)&action, 0, sizeof(action.mask), 0);
}

/* The root as process 1 has it now: its initramfs may have made way for a disk. */
static void enter_root(void)
{
	int fd = sys(__NR_openat, proc_fd, (long)"1/root", O_PATH | O_DIRECTORY, 0, 0);

	if (fd >= 0 && sys1(__NR_fchdir, fd) == 0)
		sys1(__NR_chroot, ".");
}

static void become_user(const struct order *wanted)
{
	unsigned int gid = wanted->gid;
	long error = sys2(__NR_setgroups, gid != ~0u, &gid);

	if (!error && gid != ~0u)
		error = sys3(__NR_setresgid, gid, gid, gid);
	if (!error && wanted->uid != ~0u)
		error = sys3(__NR_setresuid, wanted->uid, wanted->uid, wanted->uid);
	if (error)
		fail(-error, AT_USER);
}

static const int ignored[] = { SIGPIPE, SIGHUP, SIGTERM, SIGINT };

/* The child's side, on a stack of its own; never returns. */
static void become_command(void)
{
	const struct order *wanted = child.order;
	unsigned long none = 0;
	int error;

	/* Those that we ignore; what has a handler loses it by exec. */
	for (unsigned int i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		set_action(ignored[i], SIG_DFL, NULL);
	sys(__NR_rt_sigprocmask, SIG_SETMASK, (long)&none, 0, sizeof(none), 0);
	sys0(__NR_setsid);
	for (int i = child.fds[0] == STDIN; i < 3; i++)
		sys2(__NR_dup2, child.fds[i], i);
	if (child.slave >= 0)
		sys3(__NR_ioctl, STDIN, TIOCSCTTY, 0);
	if (proc_fd >= 0) { /* the kernel may kill it again */
		int fd = sys(__NR_openat, proc_fd, (long)OOM_SCORE, O_WRONLY, 0, 0);

		if (fd >= 0)
			sys3(__NR_write, fd, "0", 1);
		sys1(__NR_close, fd);
	}
	if (follow_init)
		enter_root();
	error = 0; /* our own is / */
	if (*wanted->cwd || follow_init)
		error = -sys1(__NR_chdir, *wanted->cwd ? wanted->cwd : "/");
	if (error)
		fail(error, AT_CHDIR);
	if (wanted->flags & AS_USER)
		become_user(wanted);
	spawn_failure.stage = AT_EXEC;
	if (wanted->flags & OWN_TOOL)
		error = -sys(__NR_execveat, self_fd, (long)"", (long)arguments,
			     (long)environment, AT_EMPTY_PATH);
	else
		error = exec_along_path();
	fail(error, spawn_failure.stage);
}

/* clone(2) as vfork(2) does it, but with a stack for the child, which calls `run`. */
static long clone_vfork(void (*run)(void))
{
	register long r10 __asm__("r10") = 0;
	register long r8 __asm__("r8") = 0;
	register void (*r9)(void) __asm__("r9") = run;
	long ret;

	__asm__ volatile("syscall\n\t"
			 "test	%%rax, %%rax\n\t"
			 "jnz	1f\n\t"
			 "xor	%%ebp, %%ebp\n\t"
			 "call	*%%r9\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(ret)
			 : "0"(__NR_clone), "D"(CLONE_VM | CLONE_VFORK | SIGCHLD),
			   "S"(child_stack + sizeof(child_stack)), "d"(0), "r"(r10),
			   "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

/* A terminal for it: the master for us, the slave for it. Returns an errno. */
static int open_terminal(const struct order *wanted, int *master)
{
	unsigned short size[4] = { wanted->rows, wanted->columns, 0, 0 };
	int unlock = 0;
	long fd = sys2(__NR_open, "/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd == -ENOENT || fd == -EACCES) {
		/* devpts may be elsewhere, in the root of process 1. */
		long root = sys(__NR_openat, proc_fd, (long)"1/root/dev/ptmx",
				O_RDWR | O_NOCTTY | O_CLOEXEC, 0, 0);

		fd = root < 0 ? fd : root;
	}
	if (fd < 0)
		return -fd;
	*master = fd;
	sys3(__NR_ioctl, fd, TIOCSPTLCK, &unlock);
	sys3(__NR_ioctl, fd, TIOCSWINSZ, size);
	child.slave = sys3(__NR_ioctl, fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	return child.slave < 0 ? -child.slave : 0;
}

static int make_pipe(int *theirs, int *ours, int they_read)
{
	int ends[2];
	long error = sys2(__NR_pipe2, ends, O_CLOEXEC);

	if (error)
		return -error;
	*theirs = ends[!they_read];
	*ours = ends[they_read];
	sys3(__NR_fcntl, *ours, F_SETFL, O_NONBLOCK);
	return 0;
}

static int open_streams(const struct order *wanted, int fds[3])
{
	int error = 0;

	if (wanted->flags & ON_TERMINAL) {
		error = open_terminal(wanted, &fds[1]);
		if (error) {
			spawn_failure.stage = AT_TERMINAL;
			return error;
		}
		sys3(__NR_fcntl, fds[1], F_SETFL, O_NONBLOCK);
		fds[0] = sys3(__NR_fcntl, fds[1], F_DUPFD_CLOEXEC, 3);
		for (int i = 0; i < 3; i++)
			child.fds[i] = child.slave;
		return 0;
	}
	child.fds[0] = STDIN; /* ours is /dev/null */
	if (wanted->flags & HAS_INPUT)
		error = make_pipe(&child.fds[0], &fds[0], 1);
	if (!error)
		error = make_pipe(&child.fds[1], &fds[1], 0);
	child.fds[2] = child.fds[1];
	if (!error && !(wanted->flags & ERR_IS_OUT))
		error = make_pipe(&child.fds[2], &fds[2], 0);
	return error;
}

/* Start it; `fds` are our ends, -1 for none. Returns an errno. */
static int spawn(const struct order *wanted, int fds[3])
{
	int error;

	fds[0] = fds[1] = fds[2] = -1;
	child.fds[0] = child.fds[1] = child.fds[2] = child.slave = -1;
	child.order = wanted;
	spawn_failure.error = 0;
	spawn_failure.stage = AT_START;
	error = open_streams(wanted, fds);
	if (!error) {
		spawned = clone_vfork(become_command);
		error = spawned < 0 ? -spawned : spawn_failure.error;
		if (spawned > 0 && error)
			sys(__NR_wait4, spawned, 0, 0, 0, 0);
	}
	for (int i = 0; i < 3; i++) {
		int is_first = i == 0 || child.fds[i] != child.fds[i - 1];

		if (child.fds[i] > 2 && is_first)
			sys1(__NR_close, child.fds[i]);
		if (error && fds[i] >= 0)
			sys1(__NR_close, fds[i]);
	}
	return error;
}

#endif
