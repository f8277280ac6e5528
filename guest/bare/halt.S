/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * halt: sleeps for ever; with the irqchip in the kernel there is no exit.
 *
 * Prints:	halt
 * Ends:	never; stop it from outside
 */
#include "bare.h"

main:
	PRINT	"halt\n"
	cli
1:	hlt
	jmp	1b
