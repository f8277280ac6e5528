/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Pipes, and the lives of processes. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

#define MESSAGE_MAX 16384 /* more than a page, less than a pipe holds */

struct message {
	uint64_t seed;
	size_t size;
};

/* Read or write all of it; a pipe that ends is no error, but says false. */
static bool transfer(ssize_t (*by)(int, void *, size_t), int fd, void *at, size_t size)
{
	while (size) {
		ssize_t n = by(fd, at, size);

		if (n == 0)
			return false;
		if (n < 0) {
			wrong("pipe: errno %d", errno);
			return false;
		}
		at = (char *)at + n;
		size -= n;
	}
	return true;
}

static bool get(int fd, void *at, size_t size)
{
	return transfer(read, fd, at, size);
}

static bool put(int fd, void *at, size_t size)
{
	return transfer((ssize_t (*)(int, void *, size_t))write, fd, at, size);
}

static unsigned char text[MESSAGE_MAX];

static bool send_message(int fd)
{
	struct message head = { random64(), random64() % MESSAGE_MAX + 1 };

	fill_bytes(text, head.size, head.seed);
	return put(fd, &head, sizeof(head)) && put(fd, text, head.size);
}

static bool get_message(int fd)
{
	struct message head;

	if (!get(fd, &head, sizeof(head)))
		return false;
	expect(head.size <= MESSAGE_MAX, "a message of %lu bytes", head.size);
	if (head.size > MESSAGE_MAX || !get(fd, text, head.size))
		return false;
	expect(same_bytes(text, head.size, head.seed), "%lu bytes came through changed",
	       head.size);
	return true;
}

void run_pipes(void)
{
	int to[2], back[2], echo;

	if (pipe(to) || pipe(back))
		skip("pipe", errno);
	echo = child();
	if (echo == 0) {
		close(to[1]);
		close(back[0]);
		while (get_message(to[0]) && send_message(back[1]))
			;
		_exit(0);
	}
	close(to[0]);
	close(back[1]);
	while (next())
		expect(send_message(to[1]) && get_message(back[0]), "the echo is gone");
	close(to[1]);
	expect(ended(echo) == 0, "the echo failed");
}

static void check_exit_status(void)
{
	int status = random64() & 0xff, pid = child();

	if (pid == 0)
		_exit(status);
	pid = ended(pid);
	expect(pid == status, "exit status %d, not %d", pid, status);
}

static void check_death_by_signal(void)
{
	int pid = child();

	if (pid == 0)
		for (;;)
			pause();
	expect(kill(pid, SIGKILL) == 0, "kill: errno %d", errno);
	pid = ended(pid);
	expect(pid == -SIGKILL, "killed: %d", pid);
}

/* The parent waits until the child has gone; they share memory until then. */
static void check_vfork(void)
{
	volatile int shared = 0;
	int pid = vfork();

	if (pid == 0) {
		shared = 1;
		_exit(42);
	}
	expect(pid > 0 && shared == 1, "vfork: pid %d, shared %d", pid, shared);
	expect(pid <= 0 || ended(pid) == 42, "a vforked child's status");
}

/* A child of a child, whose parent ends first, and several at once. */
static void check_generations(void)
{
	int pids[4], pipes[2], sum = 0;
	unsigned char byte;

	if (pipe(pipes))
		return wrong("pipe: errno %d", errno);
	for (int i = 0; i < 4; i++) {
		pids[i] = child();
		if (pids[i])
			continue;
		if (fork() == 0) {
			byte = 1 << i;
			if (write(pipes[1], &byte, 1) != 1)
				_exit(1);
		}
		_exit(i);
	}
	close(pipes[1]);
	for (int i = 3; i >= 0; i--) {
		int status = ended(pids[i]);

		expect(status == i, "of several, exit status %d, not %d", status, i);
	}
	while (read(pipes[0], &byte, 1) == 1)
		sum += byte;
	expect(sum == 15, "grandchildren: %x, not f", sum);
	close(pipes[0]);
}

void run_forks(void)
{
	while (next()) {
		check_exit_status();
		check_death_by_signal();
		check_vfork();
		check_generations();
	}
}

static void check_exec(void)
{
	char word[32], *argv[] = { "stress", "executed", "echo", word, NULL };
	char variable[64], *envp[] = { variable, NULL };
	uint64_t seed = random64();
	int status, pid;

	snprintf(word, sizeof(word), "%lu", seed);
	snprintf(variable, sizeof(variable), "STRESS=%lu", seed + 1);
	pid = child();
	if (pid == 0) {
		execve("/proc/self/exe", argv, envp);
		_exit(100);
	}
	status = ended(pid);
	expect(status == (int)(seed % 100), "exec: status %d, not %lu", status,
	       seed % 100);
}

static void check_failing_execs(void)
{
	char *argv[] = { "stress", NULL };
	char *volatile nothing = (char *)8;

	expect(execve("/nowhere", argv, NULL) == -1 && errno == ENOENT,
	       "exec: errno %d", errno);
	expect(execve("/dev", argv, NULL) == -1 && errno == EACCES, "exec: errno %d",
	       errno);
	expect(execve(nothing, argv, NULL) == -1 && errno == EFAULT, "exec: errno %d",
	       errno);
}

void run_execs(void)
{
	if (access("/proc/self/exe", X_OK))
		skip("/proc/self/exe", errno);
	while (next()) {
		check_exec();
		check_failing_execs();
	}
}

int executed_ports(void);

int executed(int argc, char **argv, char **envp)
{
	uint64_t seed;

	if (argc == 3 && !strcmp(argv[2], "ports"))
		return executed_ports();
	if (argc != 4 || strcmp(argv[2], "echo") || !envp[0] || envp[1])
		return 101;
	seed = strtoul(argv[3], NULL, 10);
	if (strncmp(envp[0], "STRESS=", 7) ||
	    strtoul(envp[0] + 7, NULL, 10) != seed + 1)
		return 102;
	return seed % 100;
}
