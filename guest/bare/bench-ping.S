/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * bench-ping: rings, 16 bits to 0xe8000000, and sleeps until IRQ 5 answers, again and
 * again.  The first half doesn't count.
 *
 * Prints:	bench <cycles> <round trips>	at the end, in hexadecimal
 * Ends:	reset through the i8042
 */
#define IRQ	5
#define ROUNDS	2000

#include "bare.h"
#include "irq.h"

main:
	call	start_irq
	mov	$(2 * ROUNDS), %ebp
	call	ring
	WAIT

ring:
	xor	%eax, %eax
	mov	$TEST_MMIO, %ecx
	mov	%ax, (%rcx)
	ret

on_irq:
	END_OF_INTERRUPT
	dec	%ebp
	jz	2f
	cmp	$ROUNDS, %ebp
	jne	1f
	rdtsc
	mov	%eax, %r12d
	mov	%edx, %r13d
1:	call	ring
	WAIT

2:	rdtsc
	sub	%r12d, %eax
	sbb	%r13d, %edx
	shl	$32, %rdx
	mov	%eax, %edi
	or	%rdx, %rdi
	PRINT	"\nbench "
	mov	%rdi, %rbx
	mov	$16, %cl
	call	puthex
	PRINT	" "
	mov	$ROUNDS, %ebx
	mov	$8, %cl
	call	puthex
	PRINT	"\n"
	jmp	reset
