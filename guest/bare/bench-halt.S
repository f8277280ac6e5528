/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * bench-halt: halt, which QEMU can enter, too.
 *
 * Prints:	halt
 * Ends:	never; stop it from outside
 */
#include "pvh.h"

main:
	PRINT	"halt\n"
	cli
1:	hlt
	jmp	1b
