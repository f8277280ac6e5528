/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * firmware: what a kernel that asks no loader finds of a PC's firmware.
 *
 * Prints:	com 03f8
 *		ebda 9fc0		its segment
 *		base 027f		KiB of base memory
 *		ebda size 01		KiB
 *		mp 000f0000		the MP floating pointer, sought as specified
 *		cmos <base> <extended> <extended> <above 16 MiB> <above 4 GiB>
 *		masks f8 fe		of the PICs
 *		irq 8 at 70		without a word to the PICs
 * Ends:	reset through the i8042
 *
 * Sources: IBM PC AT Technical Reference; Intel MultiProcessor Specification 1.4,
 * section 4.
 */
#include "bare.h"

#define IRQ 8
#define PIC_VECTOR	0x68	/* so that IRQ 8 is vector 0x70 */
#include "irq.h"

#define RTC_INDEX	0x70
#define RTC_DATA	0x71
#define RTC_A		0x0a
#define RTC_B		0x0b
#define RTC_A_64HZ	0x2a
#define RTC_B_24H	0x02
#define RTC_B_PIE	0x40
#define MP_SIGNATURE	0x5f504d5f	/* "_MP_" */

.macro SHOW string, digits
	PRINT	"\string "
	mov	$\digits, %cl
	call	puthex
.endm

.macro SHOW_WORD string, address
	movzwl	\address, %ebx
	SHOW	"\string", 4
	PRINT	"\n"
.endm

/* The bytes of CMOS registers into EBX, the last one named first. */
.macro CMOS registers:vararg
	xor	%ebx, %ebx
	.irp	register, \registers
	OUTB	\register, RTC_INDEX
	INB	RTC_DATA
	shl	$8, %ebx
	mov	%al, %bl
	.endr
.endm

/* Look for the signature in `size` bytes from ESI on; jumps to found. */
.macro SEEK size
	lea	\size(%rsi), %edi
1:	cmpl	$MP_SIGNATURE, (%rsi)
	je	found
	add	$16, %esi
	cmp	%edi, %esi
	jb	1b
.endm

main:
	SHOW_WORD "com", 0x400
	SHOW_WORD "ebda", 0x40e
	SHOW_WORD "base", 0x413
	movzwl	0x40e, %esi
	shl	$4, %esi
	movzbl	(%rsi), %ebx
	SHOW	"ebda size", 2
	movzwl	0x40e, %esi
	shl	$4, %esi
	SEEK	0x400
	movzwl	0x413, %esi
	shl	$10, %esi
	sub	$0x400, %esi
	SEEK	0x400
	mov	$0xf0000, %esi
	SEEK	0x10000
	xor	%esi, %esi
found:	mov	%esi, %ebx
	SHOW	"\nmp", 8

	CMOS	0x16, 0x15
	SHOW	"\ncmos", 4
	CMOS	0x18, 0x17
	SHOW	"", 4
	CMOS	0x31, 0x30
	SHOW	"", 4
	CMOS	0x35, 0x34
	SHOW	"", 4
	CMOS	0x5d, 0x5c, 0x5b
	SHOW	"", 6

	INB	(PIC1 + 1)
	mov	%al, %bl
	SHOW	"\nmasks", 2
	INB	(PIC2 + 1)
	mov	%al, %bl
	SHOW	"", 2
	PRINT	"\n"

	call	load_idt
	OUTB	RTC_A, RTC_INDEX
	OUTB	RTC_A_64HZ, RTC_DATA
	OUTB	RTC_B, RTC_INDEX
	OUTB	(RTC_B_24H | RTC_B_PIE), RTC_DATA
	WAIT

on_irq:
	PRINT	"irq 8 at 70\n"
	jmp	reset
