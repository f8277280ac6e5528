/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * poweroff: switches the machine off by ACPI.  The next instruction must not run.
 *
 * Prints:	nothing; an X is the instruction after it
 * Ends:	SLP_EN in PM1_CNT, SLP_TYP 0: what kernels write for QEMU without looking
 */
#include "bare.h"

#define PM1A_CNT 0x604

main:
	mov	$0x2000, %ax
	mov	$PM1A_CNT, %dx
	out	%ax, %dx
	OUTB	'X', COM1
1:	hlt
	jmp	1b
