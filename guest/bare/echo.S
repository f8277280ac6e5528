/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * echo: sends back each byte that it receives, through IRQ 4.
 *
 * Prints:	echo: ready, then what comes in
 * Ends:	on q or EOT (0x04), neither sent back: reset through the i8042
 *
 * The interrupt handler does not return: it resets the stack and waits again.
 * The main program has no state to return to, and KVM's emulator has no
 * long-mode iretq. FCR is left alone: to turn the FIFO on would clear what came in
 * before us.
 */
#include "bare.h"

#define PIC1		0x20	/* master 8259A: command, then data at +1 */
#define PIC2		0xa0
#define PIC_VECTOR	0x20	/* of IRQ 0; IRQ n is PIC_VECTOR + n */
#define PIC_ICW1	0x11	/* initialise, edge triggered, ICW4 follows */
#define PIC_ICW4	0x01	/* 8086 mode */
#define PIC_EOI		0x20
#define IRQ_COM1	4
#define BOOT_CS		0x10
#define IDT_GATE	0x8e00	/* present, DPL 0, 64-bit interrupt gate */
#define EOT		0x04

main:
	call	load_idt
	call	start_pic
	OUTB	UART_LCR_WLEN8, (COM1 + UART_LCR)
	OUTB	UART_MCR_OUT2, (COM1 + UART_MCR)
	PRINT	"echo: ready\n"
	OUTB	UART_IER_RDI, (COM1 + UART_IER)
wait:
	lea	stack_top(%rip), %rsp
	sti			/* interrupts are taken after the next instruction: */
	hlt			/* none can slip in between */
	jmp	wait

on_com1:
	INB	(COM1 + UART_LSR)
	test	$UART_LSR_DR, %al
	jz	1f
	INB	(COM1 + UART_RX)
	cmp	$'q', %al
	je	reset
	cmp	$EOT, %al
	je	reset
	call	putc
	jmp	on_com1
1:	OUTB	PIC_EOI, PIC1
	jmp	wait

/* One gate, for IRQ 4; any exception is a triple fault. */
load_idt:
	lea	on_com1(%rip), %rax
	lea	idt + 16 * (PIC_VECTOR + IRQ_COM1)(%rip), %rdi
	mov	%ax, (%rdi)
	movw	$BOOT_CS, 2(%rdi)
	movw	$IDT_GATE, 4(%rdi)
	shr	$16, %rax
	mov	%eax, 6(%rdi)	/* linked at 1 MiB: the upper half is zero */
	lea	idt(%rip), %rax
	mov	%rax, idtr + 2(%rip)
	lidt	idtr(%rip)
	ret

/* Both 8259As, all masked but IRQ 4. */
start_pic:
	OUTB	PIC_ICW1, PIC1
	OUTB	PIC_VECTOR, (PIC1 + 1)
	OUTB	0x04, (PIC1 + 1)	/* ICW3: the slave is on IRQ 2 */
	OUTB	PIC_ICW4, (PIC1 + 1)
	OUTB	PIC_ICW1, PIC2
	OUTB	(PIC_VECTOR + 8), (PIC2 + 1)
	OUTB	0x02, (PIC2 + 1)	/* ICW3: I am that slave */
	OUTB	PIC_ICW4, (PIC2 + 1)
	OUTB	(0xff & ~(1 << IRQ_COM1)), (PIC1 + 1)
	OUTB	0xff, (PIC2 + 1)
	ret

	.data
	.balign	8
idtr:
	.word	16 * (PIC_VECTOR + IRQ_COM1 + 1) - 1
	.quad	0
	.bss
	.balign	16
idt:
	.skip	16 * (PIC_VECTOR + IRQ_COM1 + 1)
