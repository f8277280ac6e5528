/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * memtop: writes the first byte above 4 GiB and reads it back.
 *
 * Prints:	memtop a5		RAM is there; ff: nothing is
 * Ends:	reset through the i8042
 *
 * The boot protocol promises no mapping above 4 GiB, so where there is none this
 * adds one of 2 MiB to the page tables that it was started with.
 */
#include "bare.h"

#define PTE_PRESENT	0x01
#define PTE_RW		0x02
#define PDE_PSE		0x80	/* a page of 2 MiB */
#define PTE_ADDRESS	0xfffff000	/* tables below 4 GiB */

main:
	mov	%cr3, %rax
	and	$PTE_ADDRESS, %eax
	mov	(%rax), %rax	/* PML4 entry 0 */
	and	$PTE_ADDRESS, %eax
	lea	4 * 8(%rax), %rdi	/* PDPT entry of the fifth GiB */
	testb	$PTE_PRESENT, (%rdi)
	jnz	1f
	movabs	$(0x100000000 | PDE_PSE | PTE_RW | PTE_PRESENT), %rbx
	mov	%rbx, directory(%rip)
	lea	directory + (PTE_RW | PTE_PRESENT)(%rip), %rbx
	mov	%rbx, (%rdi)
1:	movabs	$0x100000000, %rbp
	movb	$0xa5, (%rbp)
	mov	(%rbp), %bl
	PRINT	"memtop "
	mov	$2, %cl
	call	puthex
	PRINT	"\n"
	jmp	reset

	.bss
	.balign	4096
directory:
	.skip	4096
