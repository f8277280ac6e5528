/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * string-io: rep outs and rep ins, which reach the VMM as one exit with a count.
 *
 * Prints:	rep outsb works		in one instruction, one FIFO load
 *		insb 5a 5a 5a 5a	COM1's scratch register
 *		insw ffff ffff		an unclaimed port
 *		insl ffffffff
 * Ends:	reset through the i8042
 */
#include "bare.h"

main:
	OUTB	UART_FCR_ENABLE_FIFO, (COM1 + UART_FCR)
	lea	message(%rip), %rsi
	mov	$(message_end - message), %ecx
	mov	$(COM1 + UART_TX), %dx
	rep outsb

	PRINT	"insb"
	OUTB	0x5a, (COM1 + UART_SCR)
	call	to_buffer
	mov	$4, %ecx
	mov	$(COM1 + UART_SCR), %dx
	rep insb
	lea	buffer(%rip), %rdi
	mov	$4, %ebp
1:	mov	(%rdi), %bl
	mov	$2, %cl
	call	put_item
	inc	%rdi
	dec	%ebp
	jnz	1b

	PRINT	"\ninsw"
	call	to_buffer
	mov	$2, %ecx
	mov	$TEST_PORT, %dx
	rep insw
	mov	buffer(%rip), %bx
	mov	$4, %cl
	call	put_item
	mov	buffer + 2(%rip), %bx
	mov	$4, %cl
	call	put_item

	PRINT	"\ninsl"
	call	to_buffer
	mov	$1, %ecx
	mov	$TEST_PORT, %dx
	rep insl
	mov	buffer(%rip), %ebx
	mov	$8, %cl
	call	put_item
	PRINT	"\n"
	jmp	reset

/* RDI = a buffer of zeroes. */
to_buffer:
	lea	buffer(%rip), %rdi
	movq	$0, (%rdi)
	ret

put_item:
	mov	$' ', %al
	call	putc
	jmp	puthex

	.section .rodata
message:
	.ascii	"rep outsb works\n"	/* 16 bytes: the FIFO of a 16550A */
message_end:
	.bss
	.balign	8
buffer:
	.skip	8
