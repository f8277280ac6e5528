/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * reset-pulse: pulses every line of the i8042's output port low: command 0xf0.
 *
 * Ends:	reset, before it could print anything
 */
#include "bare.h"

main:
	OUTB	0xf0, I8042_COMMAND
	PRINT	"still here\n"
	cli
1:	hlt
	jmp	1b
