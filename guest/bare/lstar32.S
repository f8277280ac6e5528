/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * lstar32: a 32-bit guest that writes LSTAR and comes to what a 64-bit one's page-fault
 * handler would be, with a stack that looks like a system call: in vain.
 *
 * Prints:	written
 *		handler went on
 * Ends:	reset through the i8042
 */
#include "bare32.h"

#define LSTAR		0xc0000082
#define TARGET		0x200000
#define GATE		(14 * 16)	/* in 64-bit form */

	MULTIBOOT_START
main:
	mov	$stack_top, %esp
	mov	$handler, %eax
	mov	%ax, idt + GATE
	movw	$0x10, idt + GATE + 2
	movw	$0x8e00, idt + GATE + 4
	shr	$16, %eax
	mov	%ax, idt + GATE + 6
	lidt	idtr
	mov	$LSTAR, %ecx
	mov	$TARGET, %eax
	xor	%edx, %edx
	wrmsr
	PRINT	"written\n"
	mov	$frame, %esp
	jmp	handler
	nop
handler:
	nop
	nop
	mov	$stack_top, %esp
	PRINT	"handler went on\n"
	jmp	reset

	.data
idtr:	.word	0xfff
	.long	idt
	.balign	16
frame:	.quad	0, TARGET, 3, 2, 0x300000	/* error code, RIP, CS, RFLAGS, RSP */
	.bss
	.balign	16
idt:	.skip	4096
