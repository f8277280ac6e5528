/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What tracing.c's child executes.  traced_rips has the addresses at which a child
 * stops that is stepped from traced on, in order.  It stores 8 to traced_word, and
 * ends with status 0 if no trap flag is left by then.
 */
#include <asm/unistd.h>

/* One instruction, and its address in the table. */
.macro step text:vararg
771:	\text
	again
.endm

/* The instruction before is where it stops once more. */
.macro again
	.pushsection .rodata.traced, "a"
	.quad	771b
	.popsection
.endm

	.section .rodata.traced, "a"
	.globl	traced_rips, traced_rips_end
traced_rips:

	.text
	.globl	traced, traced_middle, traced_store, traced_stored, traced_free
	.type	traced, @function
traced:
	nop
	step	mov $7, %ebx
	step	xor %edx, %edx
	step	add $1, %ebx
	step	cmp $8, %ebx
	step	je 1f
	ud2
1:	step	call 2f
2:	step	pop %rax
	step	lea 3f(%rip), %rax
	step	push %rax
	step	ret
	ud2
3:	step	mov $__NR_getppid, %eax
	step	syscall
	step	test %rax, %rax
	step	mov $-1, %rax
	step	syscall			/* there is no such call */
	step	cmp $-38, %rax		/* -ENOSYS */
	step	je 4f
	ud2
4:	step	pxor %xmm1, %xmm1
	step	movq %xmm1, %rcx
	step	jrcxz 5f
	ud2
5:	step	xor %eax, %eax
	step	mov $3, %ecx
	step	lea traced_word+8(%rip), %rdi
	step	rep stosb
	again
	again
traced_middle:
	step	lea traced_word(%rip), %rdi
traced_store:
	step	mov %rbx, (%rdi)
traced_stored:
	step	nop
	step	nop
traced_free:
	nop
	pushf
	pop	%rdi
	shr	$8, %edi
	and	$1, %edi
	mov	$__NR_exit_group, %eax
	syscall
	ud2
	.size	traced, . - traced

	.section .rodata.traced, "a"
traced_rips_end:

	.bss
	.globl	traced_word
	.balign	16
traced_word:
	.skip	16
	.section .note.GNU-stack, "", @progbits
