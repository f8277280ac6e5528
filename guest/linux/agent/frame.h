/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Frames on the line between the host and vmm-agent; vmm/agent/frames.py is the other
 * end.
 *
 * A frame is a body in COBS, which has no zero byte, and a zero behind it.  So a zero
 * ends whatever was damaged or cut off, and the next frame is whole: no length has to
 * be believed, and the HELLO of a new host is seen in the middle of an old one's
 * frame.  The body, little-endian:
 *
 *	type u8, sequence u8, channel u16, payload, CRC-32 of all before u32
 *
 * Source of COBS: Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1999.
 */
#ifndef AGENT_FRAME_H
#define AGENT_FRAME_H

#include "../sys.h"

#define HEAD 4
#define CHECK 4
#define PAYLOAD_MAX 2048
#define BODY_MAX (HEAD + PAYLOAD_MAX + CHECK)
#define WIRE_MAX (BODY_MAX + BODY_MAX / 254 + 2)
#define OUT_SIZE 16384
#define OUT_SPARE 4096 /* for frames without data: data leaves so much room */

enum type {
	HELLO = 1, RUN_MORE, RUN, INPUT, INPUT_END, CREDIT, SIGNAL, WINDOW, CLOSE, PING,
	READY = 0x81, WELCOME, STARTED, FAILED, OUTPUT, ERRORS, CHANGED, INPUT_CREDIT,
	TAKEN, LOST, PONG,
};

static unsigned char out[OUT_SIZE]; /* what the line hasn't taken yet */
static size_t out_start, out_end;
static unsigned char out_sequence;

static unsigned int get16(const unsigned char *at)
{
	return at[0] | at[1] << 8;
}

static unsigned int get32(const unsigned char *at)
{
	return get16(at) | get16(at + 2) << 16;
}

static void put32(unsigned char *at, unsigned int value)
{
	for (int i = 0; i < 4; i++)
		at[i] = value >> 8 * i;
}

/* CRC-32 as zlib has it, by four bits at a time: its table is small. */
static unsigned int crc32(const unsigned char *data, size_t size)
{
	static const unsigned int table[16] = {
		0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
		0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
		0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
		0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
	};
	unsigned int crc = ~0u;

	for (size_t i = 0; i < size; i++) {
		crc = crc >> 4 ^ table[(crc ^ data[i]) & 15];
		crc = crc >> 4 ^ table[(crc ^ data[i] >> 4) & 15];
	}
	return ~crc;
}

/* Room in `out`, which is made by moving what waits to its start. */
static size_t out_room(void)
{
	if (out_start == out_end)
		out_start = out_end = 0;
	if (out_start && OUT_SIZE - out_end < OUT_SPARE + WIRE_MAX) {
		for (size_t i = out_start; i < out_end; i++)
			out[i - out_start] = out[i];
		out_end -= out_start;
		out_start = 0;
	}
	return OUT_SIZE - out_end;
}

/* Whether data may be sent. */
static int has_room(void)
{
	return out_room() >= OUT_SPARE + WIRE_MAX;
}

/* Add `body`, which has room for its check, to `out`. What finds none is lost. */
static void stuff(unsigned char *body, size_t size)
{
	unsigned char *code, *to;

	put32(body + size, crc32(body, size));
	size += CHECK;
	if (out_room() < size + size / 254 + 2)
		return;
	code = out + out_end;
	to = code + 1;
	for (size_t i = 0; i < size; i++) {
		if (body[i])
			*to++ = body[i];
		if (!body[i] || to - code == 255) {
			*code = to - code;
			code = to++;
		}
	}
	*code = to - code;
	*to++ = 0;
	out_end = to - out;
}

/* The body of the frame that is being made; data is read straight into its payload. */
static unsigned char body[BODY_MAX];
static unsigned char *const payload = body + HEAD;

/* Send a frame with the first `size` bytes of `payload`. */
static void send(enum type type, unsigned int channel, size_t size)
{
	body[0] = type;
	body[1] = out_sequence++;
	body[2] = channel;
	body[3] = channel >> 8;
	stuff(body, HEAD + size);
}

/* Undo COBS in place; return the size of the body, 0 if it is damaged. */
static size_t unstuff(unsigned char *wire, size_t size)
{
	size_t from = 0, to = 0;

	while (from < size) {
		size_t end = from + wire[from];
		int has_zero = wire[from] != 255;

		if (end > size)
			return 0;
		for (from++; from < end; from++)
			wire[to++] = wire[from];
		if (has_zero && from < size)
			wire[to++] = 0;
	}
	if (to < HEAD + CHECK || crc32(wire, to - CHECK) != get32(wire + to - CHECK))
		return 0;
	return to - CHECK;
}

#endif
