/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the bare-metal guests share: registers, entry, text on COM1, reset.
 *
 * A guest is entered at _start by the Linux 64-bit boot protocol (the kernel's
 * Documentation/x86/boot.rst, "64-bit Boot Protocol"): long mode, the first
 * 4 GiB identity-mapped, interrupts off, CS 0x10, DS = ES = SS 0x18, RSI =
 * boot_params.  It is linked at 1 MiB, needs nothing else in memory and uses
 * only instructions that KVM's instruction emulator has, so it runs where the
 * host emulates all kernel-mode code, too.
 */

#define COM1		0x3f8	/* registers: linux/serial_reg.h */
#define UART_RX		0
#define UART_TX		0
#define UART_IER	1
#define UART_FCR	2
#define UART_LCR	3
#define UART_MCR	4
#define UART_LSR	5
#define UART_SCR	7
#define UART_IER_RDI	0x01
#define UART_FCR_ENABLE_FIFO 0x01
#define UART_LCR_WLEN8	0x03
#define UART_MCR_OUT2	0x08	/* on a PC, gates the interrupt line */
#define UART_LSR_DR	0x01
#define UART_LSR_THRE	0x20

#define I8042_STATUS	0x64
#define I8042_COMMAND	0x64
#define I8042_STR_IBF	0x02
#define I8042_CMD_RESET	0xfe	/* pulse output port bit 0: CPU reset */

/* Ports and addresses at which tests place a device of their own. */
#define TEST_PORT	0x500
#define TEST_MMIO	0xe8000000

/* Write the constant `value` to `port`.  Changes AL, DX. */
.macro OUTB value, port
	mov	$\value, %al
	mov	$\port, %dx
	out	%al, %dx
.endm

/* Read `port` into AL.  Changes DX. */
.macro INB port
	mov	$\port, %dx
	in	%dx, %al
.endm

/* Print a NUL-terminated string, polled. */
.macro PRINT string
	.section .rodata
.Ltext\@:
	.asciz	"\string"
	.text
	lea	.Ltext\@(%rip), %rsi
	call	puts
.endm

	.text
	.globl	_start
_start:
	cld
	lea	stack_top(%rip), %rsp
	jmp	main

/* Print the string at RSI.  Changes AL, DX, RSI. */
puts:
	lodsb
	test	%al, %al
	jz	1f
	call	putc
	jmp	puts
1:	ret

/* Print AL once THR is empty.  Changes DX. */
putc:
	push	%rax
	mov	$(COM1 + UART_LSR), %dx
1:	in	%dx, %al
	test	$UART_LSR_THRE, %al
	jz	1b
	pop	%rax
	mov	$(COM1 + UART_TX), %dx
	out	%al, %dx
	ret

/* Print the low 4 * CL bits of RBX, CL hexadecimal digits.  Changes AL, RBX, CL, DX. */
puthex:
	push	%rcx
	shl	$2, %cl
	ror	%cl, %rbx	/* the first digit's bits are now on top */
	pop	%rcx
1:	rol	$4, %rbx
	mov	%bl, %al
	and	$0x0f, %al
	add	$'0', %al
	cmp	$'9', %al
	jbe	2f
	add	$('a' - '0' - 10), %al
2:	call	putc
	dec	%cl
	jnz	1b
	ret

/* Reset as Linux does with reboot=k; does not wait for ever on a full buffer. */
reset:
	mov	$256, %ecx
1:	INB	I8042_STATUS
	test	$I8042_STR_IBF, %al
	jz	2f
	dec	%ecx
	jnz	1b
2:	OUTB	I8042_CMD_RESET, I8042_COMMAND
	/* Not reached where the reset works. */
3:	hlt
	jmp	3b

	.bss
	.balign	16
	.skip	1024
stack_top:
	.text
