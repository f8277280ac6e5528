/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * A second entry, for VMMs that know ELF by PVH alone (QEMU): 32-bit protected
 * mode, paging off, flat segments.  It goes to long mode and on to _start, so that
 * all that follows runs in the mode that bare.h's entry has.
 *
 * Sources: Xen's misc/pvh.pandoc; xen/interface/elfnote.h; Intel SDM volume 3,
 * "Initializing IA-32e Mode".
 */
#include "bare.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define PRESENT_RW	0x03	/* of a page table's entry */
#define PAGE_SIZE_BIT	0x80	/* this one maps 2 MiB */
#define CR4_PAE		(1 << 5)
#define MSR_EFER	0xc0000080
#define EFER_LME	(1 << 8)
#define CR0_PG		(1 << 31)
#define BOOT_CS		0x10	/* the 64-bit boot protocol's selectors */
#define BOOT_DS		0x18

	.section .note.Xen, "a", @note
	.balign	4
	.long	4, 8, XEN_ELFNOTE_PHYS32_ENTRY	/* sizes of name and value, type */
	.asciz	"Xen"
	.quad	pvh_start

	.text
	.code32
pvh_start:
	movl	$(pdpt + PRESENT_RW), pml4
	movl	$(directory + PRESENT_RW), pdpt
	movl	$(PRESENT_RW + PAGE_SIZE_BIT), directory	/* the first 2 MiB: us */
	mov	$CR4_PAE, %eax
	mov	%eax, %cr4
	mov	$pml4, %eax
	mov	%eax, %cr3
	mov	$MSR_EFER, %ecx
	rdmsr
	or	$EFER_LME, %eax
	wrmsr
	mov	%cr0, %eax
	or	$CR0_PG, %eax
	mov	%eax, %cr0
	lgdt	gdt_pointer
	ljmp	$BOOT_CS, $1f
	.code64
1:	mov	$BOOT_DS, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	jmp	_start

	.section .rodata
	.balign	8
gdt:	.quad	0, 0
	.quad	0x00af9b000000ffff	/* BOOT_CS: 64-bit code */
	.quad	0x00cf93000000ffff	/* BOOT_DS: flat data */
gdt_pointer:
	.short	gdt_pointer - gdt - 1
	.long	gdt

	.bss
	.balign	4096
pml4:	.skip	4096
pdpt:	.skip	4096
directory:
	.skip	4096
	.text
