/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * adder: drives a device that adds up what is written to port 0x500 and raises
 * IRQ 5 when the sum overflows a byte.
 *
 * Prints:	sum c8			after 200
 *		overflow 2c		after 100 more, from the interrupt
 * Ends:	reset through the i8042
 */
#include "bare.h"

#define IRQ 5
#include "irq.h"

main:
	call	start_irq
	OUTB	200, TEST_PORT
	PRINT	"sum "
	call	put_sum
	OUTB	100, TEST_PORT
	WAIT

on_irq:
	PRINT	"overflow "
	call	put_sum
	jmp	reset

put_sum:
	INB	TEST_PORT
	movzbl	%al, %ebx
	mov	$2, %cl
	call	puthex
	PRINT	"\n"
	ret
