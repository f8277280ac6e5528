/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * poweroff: switches the machine off by ACPI.  The next instruction must not run.
 *
 * Prints:	nothing; an X is the instruction after it
 * Ends:	S5: SLP_TYP 5 and SLP_EN in PM1_CNT
 */
#include "bare.h"

#define PM1A_CNT 0x604

main:
	mov	$(5 << 10 | 1 << 13), %ax
	mov	$PM1A_CNT, %dx
	out	%ax, %dx
	OUTB	'X', COM1
1:	hlt
	jmp	1b
