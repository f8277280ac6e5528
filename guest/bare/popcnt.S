/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * popcnt: an instruction that KVM's emulator lacks and no quirk stands in for.
 *
 * Prints:	popcnt counts	(not where kernel code is emulated)
 * Ends:	reset through the i8042
 */
#include "bare.h"

main:
	mov	$0xf0, %eax
	popcnt	%eax, %eax
	cmp	$4, %eax
	jne	reset
	PRINT	"popcnt counts\n"
	jmp	reset
