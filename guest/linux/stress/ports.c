/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * I/O ports: for whom ioperm and iopl open them, and for nobody else.
 *
 * POST is written: a VMM keeps the byte, or lets it go.  STATUS, an i8042's, is read;
 * where there is none it is 0xff.  Neither changes anything.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/io.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "stress.h"
#include "trap.h"

#define POST 0x80
#define STATUS 0x64

INSTRUCTION(write_post, "xor %eax, %eax; mov $0x80, %edx", "out %al, %dx");
INSTRUCTION(write_post_wide, "xor %eax, %eax; mov $0x80, %edx", "out %ax, %dx");
INSTRUCTION(read_status, "mov $0x64, %edx", "in %dx, %al");
INSTRUCTION(clear_if, "", "cli");
INSTRUCTION(read_msr, "mov $0xc0000080, %ecx", "rdmsr");

static void check_open(void (*access)(void), const char *what)
{
	struct trap is = trapped(access);

	expect(!is.signal, "%s: %s", what, trap_text(&is));
}

static void check_closed(void (*access)(void), const char *what)
{
	struct trap is = trapped(access);

	expect(is.signal == SIGSEGV && is.number == GP, "%s: %s", what, trap_text(&is));
}

/* Ports are the process's: others that run in between have none. */
static int start_stranger(void)
{
	int pid = child();

	if (pid)
		return pid;
	while (!stopping()) {
		check_closed(write_post, "a stranger's port");
		check_closed(read_status, "a stranger's port");
		sched_yield();
	}
	_exit(0);
}

static void check_ioperm(void)
{
	check_closed(write_post, "before ioperm");
	expect(ioperm(POST, 1, 1) == 0, "ioperm: errno %d", errno);
	for (int i = 0; i < 20; i++) {
		check_open(write_post, "after ioperm");
		sched_yield();
		check_closed(read_status, "ioperm's neighbour");
	}
	/* It takes a right for each byte. */
	check_closed(write_post_wide, "two ports, one of them open");
	expect(ioperm(POST + 1, 1, 1) == 0, "ioperm: errno %d", errno);
	check_open(write_post_wide, "two ports, both open");
}

/* What a child and a program that it starts may do: Linux lets them. */
static void check_heirs(void)
{
	int pid = child();

	if (pid == 0) {
		check_open(write_post, "in a child");
		check_closed(read_status, "in a child, a closed one");
		ioperm(POST, 1, 0);
		check_closed(write_post, "in a child that gave it up");
		_exit(0);
	}
	expect(ended(pid) == 0, "the child failed");
	check_open(write_post, "after the child gave it up");
	pid = child();
	if (pid == 0) {
		execl("/proc/self/exe", "stress", "executed", "ports", NULL);
		_exit(100);
	}
	pid = ended(pid);
	expect(pid == 0, "in a program that it started: %d", pid);
}

/* iopl(3) opens all ports, but the interrupt flag stays the kernel's. */
static void check_iopl(void)
{
	int pid = child();

	if (pid) {
		expect(ended(pid) == 0, "the child with iopl failed");
		return;
	}
	if (iopl(3)) {
		without("iopl", errno);
		_exit(0);
	}
	check_open(read_status, "after iopl");
	check_open(write_post, "after iopl");
	check_closed(read_msr, "an MSR after iopl");
	/* Linux lets cli pass, since 5.5, and does nothing. */
	check_open(clear_if, "cli after iopl");
	iopl(0);
	check_closed(read_status, "after iopl(0)");
	_exit(0);
}

void run_ports(void)
{
	int stranger;

	if (ioperm(POST, 1, 0))
		skip("ioperm", errno);
	stranger = start_stranger();
	while (next()) {
		check_ioperm();
		check_heirs();
		expect(ioperm(POST, 2, 0) == 0, "ioperm: errno %d", errno);
		check_closed(write_post, "after it was revoked");
		check_iopl();
	}
	expect(ended(stranger) == 0, "the stranger failed");
}

/* The started program's side of check_heirs(). */
int executed_ports(void)
{
	struct trap post = trapped(write_post), status = trapped(read_status);

	return post.signal | (status.signal == SIGSEGV ? 0 : 100);
}

void run_dev_port(void)
{
	unsigned char by_file, by_port, post = 0;
	int fd;

	if (access("/dev/port", F_OK))
		mknod("/dev/port", S_IFCHR | 0600, makedev(1, 4));
	fd = open("/dev/port", O_RDWR);
	if (fd < 0)
		skip("/dev/port", errno);
	if (ioperm(STATUS, 1, 1))
		skip("ioperm", errno);
	while (next()) {
		expect(pread(fd, &by_file, 1, STATUS) == 1, "read: errno %d", errno);
		by_port = inb(STATUS);
		expect(by_file == by_port, "%x by /dev/port, %x by in", by_file,
		       by_port);
		expect(pwrite(fd, &post, 1, POST) == 1, "write: errno %d", errno);
		expect(pread(fd, &by_file, 1, 0x10000) != 1, "a port above 0xffff");
	}
}
