/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the guests of scripts/bench share: repeats `block`, which the guest defines
 * and which makes BLOCK accesses, for CYCLES of the TSC at least, and tells how
 * long it took.  `block` may change RAX, RCX and RDX.
 *
 * Prints:	bench <cycles> <accesses>	at the end, in hexadecimal
 * Ends:	reset through the i8042, or by QEMU's isa-debug-exit
 */
#include "pvh.h"

#define BLOCK		64
#define CYCLES		(1 << 30)	/* 0.4 s at 2.5 GHz */
#define DEBUG_EXIT	0xf4		/* QEMU's microvm has no i8042 */

main:
	mov	$(CYCLES / 4), %ebx	/* what comes first is always slower */
	call	measure
	mov	$CYCLES, %ebx
	call	measure
	mov	%eax, %edi
	shl	$32, %rdx
	or	%rdx, %rdi
	PRINT	"\nbench "
	mov	%rdi, %rbx
	mov	$16, %cl
	call	puthex
	PRINT	" "
	mov	%ebp, %ebx
	mov	$8, %cl
	call	puthex
	PRINT	"\n"
	OUTB	I8042_CMD_RESET, I8042_COMMAND
	OUTB	0, DEBUG_EXIT
3:	hlt
	jmp	3b

/* Repeat block for EBX cycles at least: took EDX:EAX for EBP accesses. */
measure:
	rdtsc
	mov	%eax, %esi
	mov	%edx, %edi
	xor	%ebp, %ebp
1:	call	block
	add	$BLOCK, %ebp
	rdtsc
	sub	%esi, %eax
	sbb	%edi, %edx
	jnz	2f
	cmp	%ebx, %eax
	jb	1b
2:	ret
