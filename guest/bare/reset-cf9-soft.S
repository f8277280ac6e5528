/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * reset-cf9-soft: nothing but a soft reset by the Reset Control Register.
 * The next instruction must not run.
 *
 * Prints:	nothing; an X is the instruction after the reset
 * Ends:	reset through port 0xcf9
 */
#include "bare.h"

main:
	OUTB	0x04, 0xcf9
	OUTB	'X', COM1
1:	hlt
	jmp	1b
