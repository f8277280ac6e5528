/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * panic-echo: panics, and goes on when a key comes.
 *
 * Prints:	Kernel panic - not syncing: bare guest; still here
 * Ends:	reset through the i8042
 */
#include "bare.h"

main:
	PRINT	"Kernel panic - not syncing: bare guest\n"
1:	INB	COM1 + UART_LSR
	test	$UART_LSR_DR, %al
	jz	1b
	PRINT	"still here\n"
	jmp	reset
