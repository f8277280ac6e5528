/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Instructions that trap, and what the signal says of it. */
#ifndef TRAP_H
#define TRAP_H

#include <stdbool.h>
#include <stdint.h>
#include <ucontext.h>

/* Vectors, as si_trapno has them. */
enum {
	DE = 0,
	DB = 1,
	BP = 3,
	OF = 4,
	UD = 6,
	SS = 12,
	GP = 13,
	PF = 14,
	MF = 16,
	AC = 17,
	XM = 19
};

/* Bits of a page fault's error code. */
#define PF_PRESENT 1
#define PF_WRITE 2
#define PF_USER 4
#define PF_FETCH 16

struct trap {
	int signal;	  /* 0: none came */
	int code;	  /* si_code */
	uint64_t address; /* si_addr */
	uint64_t rip, flags, cr2;
	unsigned int number, error; /* vector and error code */
};

/* Run it until it returns or a signal comes, which ends it. */
struct trap trapped(void (*run)(void));

/* A text of it, in a buffer that the next two calls leave alone. */
const char *trap_text(const struct trap *trap);

/*
 * Define the function NAME: first `before`, then `text` at the label NAME_at, and
 * ret; label NAME_end follows `text`.  It may change what any C function may.
 */
#define INSTRUCTION(name, before, text)                                        \
	extern const char name##_at[], name##_end[];                           \
	void name(void);                                                       \
	__asm__(".text\n"                                                      \
		".globl " #name ", " #name "_at, " #name "_end\n"              \
		".type " #name ", @function\n" #name ":\n\t" before "\n" #name \
		"_at:\n\t" text "\n" #name "_end:\n\tret\n"                    \
		".size " #name ", . - " #name "\n")

#endif
