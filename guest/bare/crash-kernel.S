/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * crash-kernel: panics, tells pvpanic that its crash kernel takes over, and resets as
 * that one does at the end.  It takes longer than the host waits after a panic.
 *
 * Prints:	Kernel panic - not syncing: bare guest
 *		the dump is written	when a key has come
 * Ends:	reset through the i8042
 */
#include "bare.h"

#define PVPANIC_PORT		0x505
#define PVPANIC_CRASH_LOADED	0x02

main:
	PRINT	"Kernel panic - not syncing: bare guest\n"
	OUTB	PVPANIC_CRASH_LOADED, PVPANIC_PORT
1:	INB	(COM1 + UART_LSR)
	test	$UART_LSR_DR, %al
	jz	1b
	PRINT	"the dump is written\n"
	jmp	reset
