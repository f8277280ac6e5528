/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * multiboot-low: an ELF file with a part at 0x8000, where kernels that start more
 * CPUs have their real-mode code, and with its entry in it.
 *
 * Prints:	multiboot-low: <address of the entry>
 * Ends:	reset through the i8042
 */
#include "bare32.h"

	.balign	4
	.long	0x1badb002, 0, -0x1badb002

	.section .low, "ax"
	.globl	_start
_start:	mov	$stack_top, %esp
	PRINT	"multiboot-low:"
	call	1f
1:	pop	%ebx
	and	$~0xfff, %ebx
	PRINT32	%ebx
	PRINT	"\n"
	jmp	reset
