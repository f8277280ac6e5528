/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * told-reset: tells the BIOS of a cold reset, and faults without an interrupt
 * descriptor table, as Linux does with reboot=t.
 *
 * Prints:	nothing
 * Ends:	KVM_EXIT_SHUTDOWN, which is a reset then
 */
#include "bare.h"

#define RESET_FLAG	0x472

main:
	movw	$0, RESET_FLAG
	lidt	idtr(%rip)
	mov	$0xfff8, %ax	/* no descriptor is there: #GP */
	mov	%ax, %ds
1:	hlt
	jmp	1b

	.section .rodata
idtr:
	.word	0
	.quad	0
