/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * reset-output-port: writes the i8042's output port with its reset bit clear.
 *
 * Ends:	reset, before it could print anything
 */
#include "bare.h"

main:
	OUTB	0xd1, I8042_COMMAND
	OUTB	0x02, 0x60	/* A20 on, bit 0 low */
	PRINT	"still here\n"
	cli
1:	hlt
	jmp	1b
