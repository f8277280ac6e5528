/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the 32-bit guests share: text on COM1, reset, and a stack.  They are entered
 * in 32-bit protected mode with flat segments, paging and interrupts off, and print
 * what their loader has given them.  Like bare.h's they are linked at 1 MiB and use
 * only instructions that KVM's instruction emulator has.
 */

#define COM1		0x3f8
#define UART_LSR	5	/* linux/serial_reg.h */
#define UART_LSR_THRE	0x20
#define I8042_COMMAND	0x64
#define I8042_CMD_RESET	0xfe

	.code32

/* Print a NUL-terminated string. */
.macro PRINT string
	.pushsection .rodata
.Ltext\@:
	.asciz	"\string"
	.popsection
	mov	$.Ltext\@, %esi
	call	puts
.endm

/* Print a space and a 32-bit value. */
.macro PRINT32 value
	mov	\value, %ecx
	call	print32
.endm

/* Print a space and the 64-bit value at a memory operand's two halves. */
.macro PRINT64 low, high
	PRINT32	\high
	mov	\low, %ecx
	call	puthex
.endm

/* The entry of a multiboot kernel that asks its loader for nothing; it goes to main. */
.macro MULTIBOOT_START
	.text
	.globl	_start
_start:	jmp	main
	.balign	4
	.long	0x1badb002, 0, -0x1badb002	/* magic, flags, checksum */
.endm

	.text
image:				/* its first byte */
/* Print the string at ESI.  Changes AL, EDX, ESI. */
puts:
	mov	(%esi), %al
	inc	%esi
	test	%al, %al
	jz	1f
	call	putc
	jmp	puts
1:	ret

/* Print AL once THR is empty.  Changes EDX. */
putc:
	push	%eax
	mov	$(COM1 + UART_LSR), %edx
1:	in	%dx, %al
	test	$UART_LSR_THRE, %al
	jz	1b
	pop	%eax
	mov	$COM1, %edx
	out	%al, %dx
	ret

/* Print a space, then ECX.  Changes EAX, ECX, EDX. */
print32:
	mov	$' ', %al
	call	putc
/* Print ECX, eight hexadecimal digits.  Changes EAX, ECX, EDX. */
puthex:
	push	%ebx
	mov	$8, %ebx
1:	rol	$4, %ecx
	mov	%cl, %al
	and	$0x0f, %al
	add	$'0', %al
	cmp	$'9', %al
	jbe	2f
	add	$('a' - '0' - 10), %al
2:	call	putc
	dec	%ebx
	jnz	1b
	pop	%ebx
	ret

/* Add up the bytes [ESI, EDI) into ECX.  Changes EAX, ESI. */
sum:
	xor	%ecx, %ecx
1:	cmp	%edi, %esi
	jae	2f
	movzbl	(%esi), %eax
	add	%eax, %ecx
	inc	%esi
	jmp	1b
2:	ret

reset:
	mov	$I8042_CMD_RESET, %al
	out	%al, $I8042_COMMAND
1:	hlt
	jmp	1b

	.bss
	.balign	16
	.skip	1024
stack_top:
	.text
