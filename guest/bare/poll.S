/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * poll: reads port 0x500 without pause and tells each change of its value.
 *
 * Prints:	poll ff			the first value: ff where nobody answers
 *		poll <value>		again whenever it changes
 * Ends:	when it reads 71 (q), which it prints, too: reset through the i8042
 */
#include "bare.h"

main:
	mov	$0x100, %ebp	/* the value before: no byte */
1:	INB	TEST_PORT
	movzbl	%al, %ebx
	cmp	%ebx, %ebp
	je	1b
	mov	%ebx, %ebp
	PRINT	"poll "
	mov	$2, %cl
	call	puthex
	PRINT	"\n"
	cmp	$'q', %ebp
	jne	1b
	jmp	reset
