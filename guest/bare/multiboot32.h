/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * multiboot, multiboot-flat: print what a multiboot loader has given.
 *
 * Prints:	multiboot: <eax> <flags> <mem_lower> <mem_upper>
 *		cmdline: <string>
 *		loader: <string>
 *		map: <address> <length> <type>		each entry
 *		module: <start> <end> <sum of its bytes> <string>	each
 * Ends:	reset through the i8042
 *
 * Source: Multiboot Specification 0.6.96.  The guest defines MULTIBOOT_FLAGS, and
 * with AOUT_KLUDGE the addresses that the header then has.
 */
#include "bare32.h"

#define MULTIBOOT_MAGIC	0x1badb002
#define PAGE_ALIGN	(1 << 0)
#define MEMORY_INFO	(1 << 1)
#define AOUT_KLUDGE	(1 << 16)

/* Of the information structure. */
#define MEM_LOWER	4
#define MEM_UPPER	8
#define CMDLINE		16
#define MODS_COUNT	20
#define MODS_ADDR	24
#define MMAP_LENGTH	44
#define MMAP_ADDR	48
#define LOADER_NAME	64

	.text
	.globl	_start
_start:	jmp	main
	.balign	4
header:	.long	MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
	.long	header, image, 0, stack_top, _start

main:
	mov	$stack_top, %esp
	mov	%ebx, %ebp
	mov	%eax, %edi
	PRINT	"multiboot:"
	PRINT32	%edi
	PRINT32	(%ebp)
	PRINT32	MEM_LOWER(%ebp)
	PRINT32	MEM_UPPER(%ebp)
	PRINT	"\ncmdline: "
	mov	CMDLINE(%ebp), %esi
	call	puts
	PRINT	"\nloader: "
	mov	LOADER_NAME(%ebp), %esi
	call	puts
	PRINT	"\n"

	mov	MMAP_ADDR(%ebp), %ebx
	mov	MMAP_LENGTH(%ebp), %edi
	add	%ebx, %edi
1:	cmp	%edi, %ebx
	jae	2f
	PRINT	"map:"
	PRINT64	4(%ebx), 8(%ebx)
	PRINT64	12(%ebx), 16(%ebx)
	PRINT32	20(%ebx)
	PRINT	"\n"
	add	(%ebx), %ebx		/* the entry's size, but for this field */
	add	$4, %ebx
	jmp	1b

2:	mov	MODS_ADDR(%ebp), %ebx
3:	cmpl	$0, MODS_COUNT(%ebp)
	je	reset
	PRINT	"module:"
	PRINT32	(%ebx)
	PRINT32	4(%ebx)
	mov	(%ebx), %esi
	mov	4(%ebx), %edi
	call	sum
	call	print32
	PRINT	" "
	mov	8(%ebx), %esi
	call	puts
	PRINT	"\n"
	add	$16, %ebx
	decl	MODS_COUNT(%ebp)
	jmp	3b
