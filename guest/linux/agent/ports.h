/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The short way to the host, beside the line: ports of its own, which the VMM has where
 * it has the agent's UART, and which a program may use if the kernel lets it
 * (CONFIG_X86_IOPL_IOPERM, no lockdown).
 *
 * Each access to a port takes as long as hundreds of bytes in memory, and the UART's
 * driver makes three for each byte.  By `rep insb` a whole piece comes with one exit;
 * out the host takes all from our memory, where the access finds rsi pointing, or, if it
 * can't, four bytes with an exit.  The UART then only says that there is something
 * to fetch: a BREAK, whose zero byte is an empty frame.  That we fetch stands in its
 * scratch register, where the host finds it, the host of a clone, too.
 *
 *	INBOX	FIRST bytes: the size of a piece, u16, with MORE if there is another,
 *		and as much of it as fits
 *	REST	what didn't; zeros if the host knows of none, being another by now
 *	OUTBOX	the line's bytes, four at a time; zeros between frames are nothing
 *	POST	so many of the line's bytes, from rsi on; reads as how many were taken
 */
#ifndef AGENT_PORTS_H
#define AGENT_PORTS_H

#include "frame.h"

#define INBOX 0x2f0
#define REST 0x2f1
#define OUTBOX 0x2f4
#define POST 0x2e0
#define SCRATCH 0x2ff
#define FETCHES 0xa6
#define FIRST 128
#define PIECE_MAX 4096
#define MORE 0x8000
#define NOBODY 0xffff /* what reads where there is no device */

/* Its beginning in one page, or it came by two exits, and a clone could begin between. */
static unsigned char inbox[2 + PIECE_MAX] __attribute__((aligned(FIRST)));
static int has_ports, can_post;

static void in_bytes(unsigned short port, unsigned char *to, unsigned long count)
{
	__asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(port) : "memory");
}

static void out_words(const unsigned char *from, unsigned long count)
{
	__asm__ volatile("rep outsl"
			 : "+S"(from), "+c"(count)
			 : "d"(OUTBOX)
			 : "memory");
}

/* Let the host take `size` bytes at once. */
static void post(const unsigned char *from, unsigned int size)
{
	__asm__ volatile("outl %0, %w1" : : "a"(size), "d"(POST), "S"(from) : "memory");
}

static int was_posted(unsigned int size)
{
	unsigned int count;

	__asm__ volatile("inl %w1, %0" : "=a"(count) : "d"(POST));
	return count == size;
}

/* Fetch a piece into `inbox` + 2; its size, with MORE. */
static unsigned int fetch(void)
{
	unsigned int head, size;

	/* A page that isn't there yet would have its bytes fetched twice. */
	for (size_t i = 0; i < sizeof(inbox); i += 1024)
		((volatile unsigned char *)inbox)[i] = 0;
	((volatile unsigned char *)inbox)[sizeof(inbox) - 1] = 0;
	in_bytes(INBOX, inbox, FIRST);
	head = get16(inbox);
	size = head & ~MORE;
	if (head == NOBODY || size > PIECE_MAX)
		return NOBODY;
	if (size > FIRST - 2)
		in_bytes(REST, inbox + FIRST, size - (FIRST - 2));
	return head;
}

static void open_ports(void)
{
	if (sys1(__NR_iopl, 3) < 0 || fetch() == NOBODY)
		return;
	has_ports = 1;
	((volatile unsigned char *)out)[0] = 0; /* or there is no page yet */
	post(out, 4);
	can_post = was_posted(4);
	__asm__ volatile("outb %b0, %w1" : : "a"(FETCHES), "d"(SCRATCH));
}

/* Send all of `out`. */
static void flush_by_port(void)
{
	if (can_post && out_start < out_end) {
		post(out + out_start, out_end - out_start);
		out_start = out_end = 0;
	}
	while ((out_end - out_start) % 4)
		out[out_end++] = 0;
	out_words(out + out_start, (out_end - out_start) / 4);
	out_start = out_end = 0;
}

#endif
