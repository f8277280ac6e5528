/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * reset-port-a: nothing but the fast reset of System Control Port A.
 * The next instruction must not run.
 *
 * Prints:	nothing; an X is the instruction after the reset
 * Ends:	reset through port 0x92
 */
#include "bare.h"

main:
	OUTB	0x01, 0x92
	OUTB	'X', COM1
1:	hlt
	jmp	1b
