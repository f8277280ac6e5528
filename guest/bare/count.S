/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * count: every CPU does, for ever, what takes more than one exit or entry.
 *
 * CPU n:	rep outsb of the bytes 0 to 255 to TEST_PORT + n, an 8-byte load from
 *		TEST_MMIO + 8 * n, a store of what it gave to TEST_MMIO + 0x2000 * n +
 *		0x1ffc, which is in two pages
 * Ends:	never; stop it from outside
 */
#include "bare.h"
#include "smp.h"

main:
	call	start_cpus
	xor	%edi, %edi
cpu_main:
	mov	%edi, %ebx
	shl	$13, %ebx
	mov	$TEST_MMIO, %ebp
	lea	(%rbp,%rdi,8), %r8
	lea	0x1ffc(%rbp,%rbx), %r9
1:	lea	bytes(%rip), %rsi
	mov	$256, %ecx
	lea	TEST_PORT(%rdi), %edx
	rep outsb
	mov	(%r8), %rax
	mov	%rax, (%r9)
	jmp	1b

	.section .rodata
	.balign	256
bytes:
	.set	value, 0
	.rept	256
	.byte	value
	.set	value, value + 1
	.endr
