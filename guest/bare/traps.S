/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * traps: two instructions of a kernel that KVM's emulator lacks.
 *
 * Prints:	fwait goes on
 *		int3 raises #BP behind itself
 * Ends:	reset through the i8042
 */
#include "bare.h"

#define BP_VECTOR	3
#define BOOT_CS		0x10
#define IDT_GATE	0x8e00	/* present, DPL 0, 64-bit interrupt gate */

main:
	fwait
	PRINT	"fwait goes on\n"
	lea	on_bp(%rip), %rax
	lea	idt + 16 * BP_VECTOR(%rip), %rdi
	mov	%ax, (%rdi)
	movw	$BOOT_CS, 2(%rdi)
	movw	$IDT_GATE, 4(%rdi)
	shr	$16, %rax
	mov	%eax, 6(%rdi)	/* linked at 1 MiB: the upper half is zero */
	lea	idt(%rip), %rax
	mov	%rax, idtr + 2(%rip)
	lidt	idtr(%rip)
	int3
behind:
	PRINT	"int3 raises nothing\n"
	jmp	reset

on_bp:
	mov	(%rsp), %rax
	lea	behind(%rip), %rbx
	cmp	%rbx, %rax
	jne	elsewhere
	PRINT	"int3 raises #BP behind itself\n"
	jmp	reset
elsewhere:
	PRINT	"int3 raises #BP elsewhere\n"
	jmp	reset

	.data
	.balign	8
idtr:
	.word	16 * (BP_VECTOR + 1) - 1
	.quad	0
	.bss
	.balign	16
idt:
	.skip	16 * (BP_VECTOR + 1)
