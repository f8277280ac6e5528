/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * hold_NAME(in, out, stay): load all registers, stay a while, store them all.
 *
 * Between hold_NAME_from and hold_NAME_to nothing changes a register but RCX, nor a
 * flag: lea and jrcxz count.  All else that is needed there is on the stack.
 */
#include "registers.h"

#define F_TURNS 0
#define F_SPINS 8
#define F_CALL 16
#define F_TOUCH 24
#define F_RESULT 32
#define F_RETURN 40
#define F_OUT 48
#define F_STAY 56
#define F_R15 64
#define FRAME 72 /* with six pushes and the return address: a multiple of 16 */

#define GENERAL(n) (R_GENERAL + 8 * (n))
#define VECTOR(n) (R_VECTORS + 64 * (n))
#define ALL_16 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15
#define ALL_32 ALL_16,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31

.macro load_sse at
	.irp n, ALL_16
	movups	VECTOR(\n)(\at), %xmm\n
	.endr
.endm

.macro store_sse at
	.irp n, ALL_16
	movups	%xmm\n, VECTOR(\n)(\at)
	.endr
.endm

.macro load_avx at
	.irp n, ALL_16
	vmovups	VECTOR(\n)(\at), %ymm\n
	.endr
.endm

.macro store_avx at
	.irp n, ALL_16
	vmovups	%ymm\n, VECTOR(\n)(\at)
	.endr
	vzeroupper
.endm

.macro load_avx512 at
	.irp n, ALL_32
	vmovups	VECTOR(\n)(\at), %zmm\n
	.endr
	.irp n, 0,1,2,3,4,5,6,7
	kmovq	(R_MASKS + 8 * (\n))(\at), %k\n
	.endr
.endm

.macro store_avx512 at
	.irp n, ALL_32
	vmovups	%zmm\n, VECTOR(\n)(\at)
	.endr
	.irp n, 0,1,2,3,4,5,6,7
	kmovq	%k\n, (R_MASKS + 8 * (\n))(\at)
	.endr
	vzeroupper
.endm

.macro argument from, to
	mov	\from(%rdx), %rax
	mov	%rax, \to(%rsp)
.endm

.macro hold name
	.globl	hold_\name, hold_\name\()_from, hold_\name\()_to, hold_\name\()_call
	.type	hold_\name, @function
hold_\name:
	push	%rbx
	push	%rbp
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	sub	$FRAME, %rsp
	argument S_TURNS, F_TURNS
	argument S_SPINS, F_SPINS
	argument S_CALL, F_CALL
	argument S_TOUCH, F_TOUCH
	mov	%rsi, F_OUT(%rsp)
	mov	%rdx, F_STAY(%rsp)

	load_\name %rdi
	fninit
	fldcw	R_CONTROL(%rdi)
	.irp n, 7,6,5,4,3,2,1,0
	fldt	(R_X87 + 16 * (\n))(%rdi)
	.endr
	ldmxcsr	R_MXCSR(%rdi)
	push	R_FLAGS(%rdi)
	mov	GENERAL(0)(%rdi), %rax
	mov	GENERAL(2)(%rdi), %rdx
	mov	GENERAL(3)(%rdi), %rbx
	mov	GENERAL(5)(%rdi), %rbp
	mov	GENERAL(6)(%rdi), %rsi
	.irp n, 8,9,10,11,12,13,14,15
	mov	GENERAL(\n)(%rdi), %r\n
	.endr
	mov	GENERAL(7)(%rdi), %rdi
	popf
hold_\name\()_from:

1:	mov	F_SPINS(%rsp), %rcx
2:	jrcxz	3f
	lea	-1(%rcx), %rcx
	jmp	2b
3:	mov	F_TOUCH(%rsp), %rcx
	jrcxz	4f
	movb	$1, (%rcx)
	lea	4096(%rcx), %rcx
	mov	%rcx, F_TOUCH(%rsp)
4:	mov	F_CALL(%rsp), %rcx
	lea	-NO_CALL(%rcx), %rcx
	jrcxz	5f
	mov	F_CALL(%rsp), %rax
	syscall
hold_\name\()_call:
	mov	%rax, F_RESULT(%rsp)
	mov	%rcx, F_RETURN(%rsp)
5:	mov	F_TURNS(%rsp), %rcx
	lea	-1(%rcx), %rcx
	mov	%rcx, F_TURNS(%rsp)
	jrcxz	6f
	jmp	1b

hold_\name\()_to:
6:	mov	%r15, F_R15(%rsp)
	mov	F_OUT(%rsp), %r15
	pushf
	pop	R_FLAGS(%r15)
	pushq	$2
	popf
	mov	%rax, GENERAL(0)(%r15)
	mov	%rdx, GENERAL(2)(%r15)
	mov	%rbx, GENERAL(3)(%r15)
	mov	%rbp, GENERAL(5)(%r15)
	mov	%rsi, GENERAL(6)(%r15)
	mov	%rdi, GENERAL(7)(%r15)
	.irp n, 8,9,10,11,12,13,14
	mov	%r\n, GENERAL(\n)(%r15)
	.endr
	mov	F_R15(%rsp), %rax
	mov	%rax, GENERAL(15)(%r15)
	fnstcw	R_CONTROL(%r15)
	.irp n, 0,1,2,3,4,5,6,7
	fstpt	(R_X87 + 16 * (\n))(%r15)
	.endr
	stmxcsr	R_MXCSR(%r15)
	store_\name %r15
	/* As C wants them. */
	fninit
	pushq	$0x1f80
	ldmxcsr	(%rsp)
	pop	%rax

	mov	F_STAY(%rsp), %rdx
	mov	F_RESULT(%rsp), %rax
	mov	%rax, S_RESULT(%rdx)
	mov	F_RETURN(%rsp), %rax
	mov	%rax, S_RETURN(%rdx)
	add	$FRAME, %rsp
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbp
	pop	%rbx
	ret
	.size	hold_\name, . - hold_\name
.endm

	.text
	hold	sse
	hold	avx
	hold	avx512
	.section .note.GNU-stack, "", @progbits
