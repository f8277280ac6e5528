/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The commands that run for the host: a table of them, with what they have to read and
 * what the host has yet to be told.
 *
 * Nothing here waits: a command that doesn't read is given no more, one whose output the
 * host doesn't take (its credit) isn't read any more.  So each holds up itself alone.
 */
#ifndef AGENT_COMMANDS_H
#define AGENT_COMMANDS_H

#include <asm/ioctls.h>
#include <asm/termbits.h>
#include <linux/fcntl.h>
#include <linux/poll.h>
#include <linux/signal.h>

#include "frame.h"
#include "spawn.h"

#define COMMANDS 32
#define INPUT_WINDOW 8192
#define OUTPUT_WINDOW (256 << 10) /* of a stream's output, before the first CREDIT */
#define VEOF_KEY 4

/* What CHANGED tells, as bits. */
#define OUT_ENDED 1
#define ERR_ENDED 2
#define EXITED 4
#define IN_BROKEN 8

struct command {
	long pid; /* 0: the entry is free */
	unsigned int channel;
	int is_ours; /* of this session: the host is told of it */
	int is_terminal;
	int in, streams[2]; /* -1: closed */
	unsigned int credit[2];
	unsigned int state, told, status;
	unsigned char input[INPUT_WINDOW]; /* a ring */
	unsigned int first, waiting;
	unsigned int taken; /* input that the host isn't told of yet */
	int input_ends;
};

static struct command commands[COMMANDS];

static void close_fd(int *fd)
{
	if (*fd >= 0)
		sys1(__NR_close, *fd);
	*fd = -1;
}

static void close_all(struct command *c)
{
	close_fd(&c->in);
	close_fd(&c->streams[0]);
	close_fd(&c->streams[1]);
	c->pid = 0;
}

static struct command *find(unsigned int channel)
{
	for (struct command *c = commands; c < commands + COMMANDS; c++)
		if (c->pid && c->is_ours && c->channel == channel)
			return c;
	return NULL;
}

static struct command *free_command(void)
{
	for (struct command *c = commands; c < commands + COMMANDS; c++)
		if (!c->pid)
			return c;
	/* One that nobody listens to goes on without its streams. */
	for (struct command *c = commands; c < commands + COMMANDS; c++)
		if (!c->is_ours) {
			close_all(c);
			return c;
		}
	return NULL;
}

static void break_input(struct command *c)
{
	c->state |= IN_BROKEN;
	if (!c->is_terminal)
		close_fd(&c->in);
	c->taken += c->waiting;
	c->waiting = 0;
}

/* Write to the command what waits for it. */
static void feed(struct command *c)
{
	unsigned int run;
	long n;

	while (c->waiting && c->in >= 0) {
		run = INPUT_WINDOW - c->first;
		if (run > c->waiting)
			run = c->waiting;
		n = sys3(__NR_write, c->in, c->input + c->first, run);
		if (n == -EAGAIN || n == -EINTR)
			break;
		if (n < 0) {
			break_input(c);
			return;
		}
		c->first = (c->first + n) % INPUT_WINDOW;
		c->waiting -= n;
		c->taken += n;
	}
	if (c->input_ends && !c->waiting && !c->is_terminal)
		close_fd(&c->in);
}

/* INPUT: more than the window that it was given is the host's fault, and dropped. */
static void take_input(struct command *c, const unsigned char *data, size_t size)
{
	if (c->in < 0 || c->state & IN_BROKEN) {
		c->taken += size;
		return;
	}
	for (size_t i = 0; i < size && c->waiting < INPUT_WINDOW; i++)
		c->input[(c->first + c->waiting++) % INPUT_WINDOW] = data[i];
	feed(c);
}

static void end_input(struct command *c)
{
	static const unsigned char eof = VEOF_KEY;

	if (c->is_terminal && !c->input_ends)
		take_input(c, &eof, 1);
	c->input_ends = 1;
	feed(c);
}

/* Read what a stream has, as much as the host takes; 0 when there is no more. */
static int drain(struct command *c, int stream)
{
	size_t most = PAYLOAD_MAX;
	long n;

	if (c->is_ours && c->credit[stream] < most)
		most = c->credit[stream];
	n = sys3(__NR_read, c->streams[stream], payload, most);
	if (n == -EAGAIN || n == -EINTR)
		return 0;
	if (n <= 0) { /* EIO: the last one has closed a terminal */
		close_fd(&c->streams[stream]);
		c->state |= stream ? ERR_ENDED : OUT_ENDED;
		return 0;
	}
	if (c->is_ours) {
		c->credit[stream] -= n;
		send(stream ? ERRORS : OUTPUT, c->channel, n);
	}
	return n == (long)most;
}

static void bury(void)
{
	int status;
	long pid;

	while ((pid = sys(__NR_wait4, -1, (long)&status, WNOHANG, 0, 0)) > 0)
		for (struct command *c = commands; c < commands + COMMANDS; c++)
			if (c->pid == pid && !(c->state & EXITED)) {
				c->state |= EXITED;
				c->status = status;
			}
}

/*
 * Tell the host what is new of each command, and forget those that are through.  That
 * streams have ended waits for the exit, which mostly follows: one frame will do.  Gives
 * back whether something waits; `late` says that it has waited long enough.
 */
static int tell(int late)
{
	const unsigned int all = OUT_ENDED | ERR_ENDED | EXITED;
	int waits = 0;

	for (struct command *c = commands; c < commands + COMMANDS; c++) {
		if (!c->pid)
			continue;
		if ((c->state & all) == (OUT_ENDED | ERR_ENDED) && c->state != c->told)
			bury();
		if (c->is_ours && c->state != c->told) {
			if (!late && !(c->state & EXITED)) {
				waits = 1;
				continue;
			}
			payload[0] = c->told = c->state;
			payload[1] = c->status;
			payload[2] = c->status >> 8;
			send(CHANGED, c->channel, 3);
		}
		if ((c->state & all) == all)
			close_all(c);
	}
	return waits;
}

/*
 * Give the host back what commands have read, or never will: once for all that came, for
 * a frame for each may be more than `out` has room for.  Gives back whether it did.
 */
static int send_input_credits(void)
{
	int sent = 0;

	for (struct command *c = commands; c < commands + COMMANDS; c++)
		if (c->pid && c->is_ours && c->taken && has_room()) {
			put32(payload, c->taken);
			c->taken = 0;
			send(INPUT_CREDIT, c->channel, 4);
			sent = 1;
		}
	return sent;
}

/* RUN: what is to be run is in `order`. */
static void start(unsigned int channel)
{
	struct command *c = free_command();
	struct order wanted;
	int fds[3], error = c ? 0 : EAGAIN;

	if (!error)
		error = parse_order(&wanted);
	if (!error)
		error = spawn(&wanted, fds);
	if (error) {
		payload[0] = error;
		payload[1] = c ? spawn_failure.stage : 0;
		send(FAILED, channel, 2);
		return;
	}
	c->pid = spawned;
	c->channel = channel;
	c->is_ours = 1;
	c->is_terminal = wanted.flags & ON_TERMINAL;
	c->in = fds[0];
	c->streams[0] = fds[1];
	c->streams[1] = fds[2];
	c->credit[0] = c->credit[1] = OUTPUT_WINDOW;
	c->state = c->told = fds[2] < 0 ? ERR_ENDED : 0;
	c->status = c->first = c->waiting = c->taken = c->input_ends = 0;
	if (wanted.flags & TELL_START) {
		put32(payload, c->pid);
		send(STARTED, channel, 4);
	}
}

/* Signal its process, or all of its group. One that has exited isn't there any more. */
static void signal_command(struct command *c, int number, int whole_group)
{
	/* The group may live on when its leader is buried, and keeps its number. */
	if (whole_group)
		sys2(__NR_kill, -c->pid, number);
	else if (!(c->state & EXITED))
		sys2(__NR_kill, c->pid, number);
}

static void resize(struct command *c, unsigned int rows, unsigned int columns)
{
	unsigned short size[4] = { rows, columns, 0, 0 };

	if (c->is_terminal && c->streams[0] >= 0)
		sys3(__NR_ioctl, c->streams[0], TIOCSWINSZ, size);
}

/* Nobody listens to it any more: what it prints is thrown away. */
static void disown(struct command *c)
{
	c->is_ours = 0;
	c->waiting = 0;
	c->input_ends = 1;
	if (!c->is_terminal)
		close_fd(&c->in);
}

#endif
