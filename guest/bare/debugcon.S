/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * debugcon: writes to port 0xE9.
 *
 * Prints:	e9 reads <value>	0xe9 where somebody listens
 *		and at port 0xE9:	hello by 0xe9
 * Ends:	reset through the i8042
 */
#include "bare.h"

#define DEBUGCON	0xe9

main:
	INB	DEBUGCON
	mov	%al, %bl
	PRINT	"e9 reads "
	mov	$2, %cl
	call	puthex
	PRINT	"\n"
	lea	hello(%rip), %rsi
1:	lodsb
	test	%al, %al
	jz	reset
	out	%al, $DEBUGCON
	jmp	1b

	.section .rodata
hello:	.asciz	"hello by 0xe9\n"
