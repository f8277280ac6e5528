/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * real-mode: goes back to real mode, and finds the vectors and the reset of a BIOS.
 *
 * Prints:	real mode
 *		a service fails		with CF, as one that the BIOS doesn't know
 *		two interrupts		of the real-time clock, ended by the BIOS's handler
 * Ends:	reset by a jump to F000:FFF0
 */
#include "bare32.h"

#define REAL		0x10000		/* where nothing of the boot protocol is */
#define CODE16		0x08
#define DATA16		0x10
#define CR0_PE		0x00000001
#define RTC_INDEX	0x70
#define RTC_DATA	0x71

	MULTIBOOT_START
main:
	mov	$stack_top, %esp
	mov	$real, %esi
	mov	$REAL, %edi
	mov	$(real_end - real), %ecx
	rep movsb
	lgdt	gdtr
	ljmp	$CODE16, $0

	.balign	8
gdt:	.quad	0
	.quad	0x00009b010000ffff	/* CODE16, based at REAL */
	.quad	0x000093010000ffff	/* DATA16, likewise */
gdtr:	.word	gdtr - gdt - 1
	.long	gdt

	.code16
.macro OUT_RTC register, value
	mov	$\register, %al
	out	%al, $RTC_INDEX
	mov	$\value, %al
	out	%al, $RTC_DATA
.endm

/* Print the string at SI. */
.macro SAY string
	mov	$(\string - real), %si
	call	say
.endm

real:
	mov	$DATA16, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	%cr0, %eax
	and	$~CR0_PE, %eax
	mov	%eax, %cr0
	ljmp	$(REAL >> 4), $(1f - real)
1:	mov	%cs, %ax
	mov	%ax, %ds
	mov	%ax, %es
	mov	%ax, %ss
	mov	$0xfff0, %sp
	lidtl	(vectors - real)
	SAY	hello
	mov	$0xe820, %ax
	clc
	int	$0x15
	jnc	2f
	SAY	fails
2:	OUT_RTC	0x0a, 0x2a		/* 64 Hz */
	OUT_RTC	0x0b, 0x42		/* periodic, 24 hours */
	sti
	hlt
	call	read_c
	hlt
	cli
	SAY	two
	ljmp	$0xf000, $0xfff0

read_c:	mov	$0x0c, %al
	out	%al, $RTC_INDEX
	in	$RTC_DATA, %al
	ret

say:	mov	(%si), %al
	inc	%si
	test	%al, %al
	jz	2f
	mov	%al, %ah
	mov	$(COM1 + UART_LSR), %dx
1:	in	%dx, %al
	test	$UART_LSR_THRE, %al
	jz	1b
	mov	%ah, %al
	mov	$COM1, %dx
	out	%al, %dx
	jmp	say
2:	ret

vectors:
	.word	0x3ff
	.long	0
hello:	.asciz	"real mode\n"
fails:	.asciz	"a service fails\n"
two:	.asciz	"two interrupts\n"
real_end:
