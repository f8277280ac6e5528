/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * All that a program has in registers, and hold(), which keeps known values in all
 * of them while the program is interrupted or calls the kernel.
 */
#ifndef REGISTERS_H
#define REGISTERS_H

/* Where hold.S finds the members of the structs below. */
#define R_GENERAL 0 /* in the order in which x86 numbers them */
#define R_FLAGS 128
#define R_MXCSR 136
#define R_CONTROL 140
#define R_X87 144
#define R_MASKS 272
#define R_VECTORS 384
#define S_TURNS 0
#define S_SPINS 8
#define S_CALL 16
#define S_TOUCH 24
#define S_RESULT 32
#define S_RETURN 40
#define NO_CALL -1000 /* in the place of a system call's number */

#ifndef __ASSEMBLER__

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

#define FLAG_CF 0x1
#define FLAG_TF 0x100
#define FLAG_IF 0x200
#define FLAG_DF 0x400
#define FLAG_OF 0x800
#define FLAG_NT 0x4000
#define FLAG_AC 0x40000
#define FLAG_ID 0x200000
#define FLAGS_ARITHMETIC 0x8d5 /* CF PF AF ZF SF OF */

struct registers {
	uint64_t general[16]; /* but rsp, and rcx, by which hold() counts */
	uint64_t flags;
	uint32_t mxcsr;
	uint16_t control;
	unsigned char x87[8][16] __attribute__((aligned(16))); /* ten bytes of each */
	uint64_t masks[8];
	unsigned char vectors[32][64] __attribute__((aligned(64)));
};

_Static_assert(offsetof(struct registers, flags) == R_FLAGS, "R_FLAGS");
_Static_assert(offsetof(struct registers, mxcsr) == R_MXCSR, "R_MXCSR");
_Static_assert(offsetof(struct registers, control) == R_CONTROL, "R_CONTROL");
_Static_assert(offsetof(struct registers, x87) == R_X87, "R_X87");
_Static_assert(offsetof(struct registers, masks) == R_MASKS, "R_MASKS");
_Static_assert(offsetof(struct registers, vectors) == R_VECTORS, "R_VECTORS");

/* What happens while the values are held. */
struct stay {
	long turns;  /* at least 1, of all that follows */
	long spins;  /* of an empty loop */
	long call;   /* a system call's number or NO_CALL; its arguments are as held */
	char *touch; /* each turn writes to a page from here on; or NULL */
	/* Out, of the last call: */
	long result;
	long returned; /* RCX */
};

_Static_assert(offsetof(struct stay, result) == S_RESULT, "S_RESULT");
_Static_assert(offsetof(struct stay, returned) == S_RETURN, "S_RETURN");

/* The registers to hold: all have x87's and the general ones. */
enum vectors { SSE, AVX, AVX512 };

/* Whether this CPU, and who programs XCR0, say that programs may use them. */
bool have(enum vectors vectors);

/* Set everything to values that nobody else has. */
void fill(struct registers *registers);

/* Hold `in`, and see in `out` what it has become. */
void hold(enum vectors vectors, const struct registers *in, struct registers *out,
	  struct stay *stay);

/* Tell what of `was` differs in `is`; `called`: rax and r11 may, by a system call. */
bool same(enum vectors vectors, const struct registers *is, const struct registers *was,
	  bool called, const char *when);

/* Whether at this RIP the values are in the registers. */
bool held_at(uint64_t rip);

/* The address behind hold()'s system call. */
bool behind_call(uint64_t rip);

#endif
#endif
