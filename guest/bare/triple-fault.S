/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * triple-fault: an exception without an interrupt descriptor table.
 *
 * Prints:	triple fault
 * Ends:	KVM_EXIT_SHUTDOWN
 */
#include "bare.h"

main:
	PRINT	"triple fault\n"
	lidt	idtr(%rip)
	/* #GP: no descriptor at this selector.  Not int3 or ud2, which KVM's
	   emulator does not have. */
	mov	$0xfff8, %ax
	mov	%ax, %ds
1:	hlt
	jmp	1b

	.section .rodata
idtr:
	.word	0
	.quad	0
