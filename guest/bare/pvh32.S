/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * pvh32: print what a PVH loader has given.
 *
 * Prints:	pvh: <magic> <version> <flags> <nr_modules> <rsdp>
 *		cmdline: <string>
 *		map: <address> <length> <type>		each entry
 *		module: <start> <size> <sum of its bytes> <string>	each
 * Ends:	reset through the i8042
 *
 * Sources: Xen's docs/misc/pvh.pandoc; arch-x86/hvm/start_info.h.
 */
#include "bare32.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18

/* Of hvm_start_info; all addresses lie below 4 GiB. */
#define VERSION		4
#define FLAGS		8
#define NR_MODULES	12
#define MODLIST		16
#define CMDLINE		24
#define RSDP		32
#define MEMMAP		40
#define MEMMAP_ENTRIES	48

	.section .note.Xen, "a", @note
	.balign	4
	.long	4, 4, XEN_ELFNOTE_PHYS32_ENTRY	/* sizes of name and value, type */
	.asciz	"Xen"
	.long	main

	.text
	.globl	_start
_start:	jmp	reset			/* whoever doesn't know PVH ends here */
main:
	mov	$stack_top, %esp
	mov	%ebx, %ebp
	PRINT	"pvh:"
	PRINT32	(%ebp)
	PRINT32	VERSION(%ebp)
	PRINT32	FLAGS(%ebp)
	PRINT32	NR_MODULES(%ebp)
	PRINT64	RSDP(%ebp), RSDP+4(%ebp)
	PRINT	"\ncmdline: "
	mov	CMDLINE(%ebp), %esi
	call	puts
	PRINT	"\n"

	mov	MEMMAP(%ebp), %ebx
1:	cmpl	$0, MEMMAP_ENTRIES(%ebp)
	je	2f
	PRINT	"map:"
	PRINT64	0(%ebx), 4(%ebx)
	PRINT64	8(%ebx), 12(%ebx)
	PRINT32	16(%ebx)
	PRINT	"\n"
	add	$24, %ebx
	decl	MEMMAP_ENTRIES(%ebp)
	jmp	1b

2:	mov	MODLIST(%ebp), %ebx
3:	cmpl	$0, NR_MODULES(%ebp)
	je	reset
	PRINT	"module:"
	PRINT32	0(%ebx)
	PRINT32	8(%ebx)
	mov	(%ebx), %esi
	mov	8(%ebx), %edi
	add	%esi, %edi
	call	sum
	call	print32
	PRINT	" "
	mov	16(%ebx), %esi
	call	puts
	PRINT	"\n"
	add	$32, %ebx
	decl	NR_MODULES(%ebp)
	jmp	3b
