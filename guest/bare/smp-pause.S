/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * smp-pause: all CPUs but the first count; that one says a panic's line, and goes on.
 *
 * Prints:	Kernel panic - not syncing: all CPUs count
 *		all count	for each byte of input, once each has counted on
 * Ends:	never; stop it from outside
 */
#include "bare.h"
#include "smp.h"

main:
	call	start_cpus
	PRINT	"Kernel panic - not syncing: all CPUs count\n"
wait:	INB	COM1 + UART_LSR
	test	$UART_LSR_DR, %al
	jz	wait
	INB	COM1 + UART_RX
	mov	$1, %ebx
2:	cmp	%ebx, cpus(%rip)
	je	4f
	lea	counts(%rip), %rsi
	mov	(%rsi,%rbx,8), %rax
3:	pause
	cmp	(%rsi,%rbx,8), %rax
	je	3b
	inc	%ebx
	jmp	2b
4:	PRINT	"all count\n"
	jmp	wait

cpu_main:
	lea	counts(%rip), %rsi
1:	incq	(%rsi,%rdi,8)
	jmp	1b

	.bss
	.balign	8
counts:
	.skip	8 * CPUS_MAX
