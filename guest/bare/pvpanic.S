/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * pvpanic: tells the host that it has panicked, by pvpanic alone, and waits for ever.
 *
 * Prints:	events 03		what the host knows: panicked, crash loaded
 * Ends:	by the host; without the device: hang, and events ff
 */
#include "bare.h"

#define PVPANIC_PORT		0x505
#define PVPANIC_PANICKED	0x01

main:
	PRINT	"events "
	INB	PVPANIC_PORT
	mov	%al, %bl
	mov	$2, %cl
	call	puthex
	PRINT	"\n"
	OUTB	PVPANIC_PANICKED, PVPANIC_PORT
1:	hlt
	jmp	1b
