/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * ranges: writes to addresses where a PC has devices, and reads what is there then.
 *
 * Prints:	a0000 <value>		video memory
 *		b8000 <value>		text
 *		fed00000 <value>	a HPET's
 *		fed40000 <value>	a TPM's
 *		ff000000 <value>	flash
 * Ends:	reset through the i8042
 */
#include "bare.h"

.macro TRY address, name
	mov	$\address, %edi
	movl	$0x5a5aa5a5, (%rdi)
	mov	(%rdi), %ebx
	PRINT	"\name "
	mov	$8, %cl
	call	puthex
	PRINT	"\n"
.endm

main:
	TRY	0xa0000, a0000
	TRY	0xb8000, b8000
	TRY	0xfed00000, fed00000
	TRY	0xfed40000, fed40000
	TRY	0xff000000, ff000000
	jmp	reset
