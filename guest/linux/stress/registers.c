/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Registers full of known values: see registers.h. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "registers.h"
#include "stress.h"

typedef void holder(const struct registers *in, struct registers *out,
		    struct stay *stay);

holder hold_sse, hold_avx, hold_avx512;
extern const char hold_sse_from[], hold_sse_to[], hold_sse_call[];
extern const char hold_avx_from[], hold_avx_to[], hold_avx_call[];
extern const char hold_avx512_from[], hold_avx512_to[], hold_avx512_call[];

static const struct kind {
	holder *hold;
	const char *from, *to, *call;
	int vectors, size;
	const char *name;
} kinds[] = {
	[SSE] = { hold_sse, hold_sse_from, hold_sse_to, hold_sse_call, 16, 16, "xmm" },
	[AVX] = { hold_avx, hold_avx_from, hold_avx_to, hold_avx_call, 16, 32, "ymm" },
	[AVX512] = { hold_avx512, hold_avx512_from, hold_avx512_to, hold_avx512_call,
		     32, 64, "zmm" },
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static const char *const general_names[] = {
	"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
	"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
};

bool have(enum vectors vectors)
{
	switch (vectors) {
	case AVX512: /* BW has the masks of 64 bits */
		return __builtin_cpu_supports("avx512f") &&
		       __builtin_cpu_supports("avx512bw");
	case AVX:
		return __builtin_cpu_supports("avx");
	default:
		return true;
	}
}

/* A word that tells which worker's it is.  A system call for each would take long. */
static uint64_t pattern(void)
{
	static uint64_t whose;

	if (!whose)
		whose = (uint64_t)getpid() << 48;
	return whose | random64() >> 16;
}

void fill(struct registers *registers)
{
	memset(registers, 0, sizeof(*registers));
	for (int i = 0; i < 16; i++)
		registers->general[i] = pattern();
	registers->flags = 2 | (random64() & FLAGS_ARITHMETIC);
	/* All exceptions masked; rounding in any way, x87 to any precision there is. */
	registers->mxcsr = 0x1f80 | (random64() & 3) << 13 | (random64() & 1) << 15;
	registers->control =
		0x7f | (random64() & 1) << 9 | 1 << 8 | (random64() & 3) << 10;
	for (int i = 0; i < 8; i++) {
		uint64_t mantissa = pattern() | 1ull << 63;
		uint16_t exponent = 0x3f00 + (random64() & 0xff); /* a normal one */

		memcpy(registers->x87[i], &mantissa, 8);
		memcpy(registers->x87[i] + 8, &exponent, 2);
		registers->masks[i] = pattern();
	}
	for (int i = 0; i < 32; i++)
		for (int at = 0; at < 64; at += 8) {
			uint64_t word = pattern();

			memcpy(registers->vectors[i] + at, &word, 8);
		}
}

void hold(enum vectors vectors, const struct registers *in, struct registers *out,
	  struct stay *stay)
{
	memset(out, 0, sizeof(*out));
	kinds[vectors].hold(in, out, stay);
}

/* Of two runs of bytes, the eight where they first differ, as numbers. */
static void tell_bytes(const char *name, int number, const unsigned char *is,
		       const unsigned char *was, int size, const char *when)
{
	uint64_t has = 0, had = 0;
	int at = 0;

	while (at + 8 < size && !memcmp(is + at, was + at, 8))
		at += 8;
	memcpy(&has, is + at, size - at < 8 ? size - at : 8);
	memcpy(&had, was + at, size - at < 8 ? size - at : 8);
	wrong("%s: %s%d[%d] is %016lx, was %016lx", when, name, number, at / 8, has,
	      had);
}

static bool same_general(const struct registers *is, const struct registers *was,
			 bool called, const char *when)
{
	bool same = true;

	for (int i = 0; i < 16; i++) {
		if (i == RCX || i == RSP || (called && (i == RAX || i == R11)))
			continue;
		if (is->general[i] == was->general[i])
			continue;
		wrong("%s: %s is %016lx, was %016lx", when, general_names[i],
		      is->general[i], was->general[i]);
		same = false;
	}
	if (is->flags != (was->flags | FLAG_IF)) {
		wrong("%s: the flags are %lx, were %lx", when, is->flags, was->flags);
		same = false;
	}
	return same;
}

static bool same_x87(const struct registers *is, const struct registers *was,
		     const char *when)
{
	bool same = true;

	for (int i = 0; i < 8; i++) {
		if (!memcmp(is->x87[i], was->x87[i], 10))
			continue;
		tell_bytes("st", i, is->x87[i], was->x87[i], 10, when);
		same = false;
	}
	if (is->control != was->control || is->mxcsr != was->mxcsr) {
		wrong("%s: x87's control word is %x, was %x; mxcsr %x, was %x", when,
		      is->control, was->control, is->mxcsr, was->mxcsr);
		same = false;
	}
	return same;
}

bool same(enum vectors vectors, const struct registers *is, const struct registers *was,
	  bool called, const char *when)
{
	const struct kind *kind = &kinds[vectors];
	bool same = same_general(is, was, called, when);

	same &= same_x87(is, was, when);
	for (int i = 0; i < kind->vectors; i++) {
		if (!memcmp(is->vectors[i], was->vectors[i], kind->size))
			continue;
		tell_bytes(kind->name, i, is->vectors[i], was->vectors[i], kind->size,
			   when);
		same = false;
	}
	for (int i = 0; vectors == AVX512 && i < 8; i++) {
		if (is->masks[i] == was->masks[i])
			continue;
		wrong("%s: k%d is %016lx, was %016lx", when, i, is->masks[i],
		      was->masks[i]);
		same = false;
	}
	return same;
}

bool held_at(uint64_t rip)
{
	for (size_t i = 0; i < KINDS; i++)
		if (rip >= (uint64_t)kinds[i].from && rip < (uint64_t)kinds[i].to)
			return true;
	return false;
}

bool behind_call(uint64_t rip)
{
	for (size_t i = 0; i < KINDS; i++)
		if (rip == (uint64_t)kinds[i].call)
			return true;
	return false;
}
