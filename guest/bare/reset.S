/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * reset: nothing but a reset.  The next instruction must not run.
 *
 * Prints:	nothing; an X is the instruction after the reset
 * Ends:	reset through the i8042
 */
#include "bare.h"

main:
	OUTB	I8042_CMD_RESET, I8042_COMMAND
	OUTB	'X', COM1
1:	hlt
	jmp	1b
