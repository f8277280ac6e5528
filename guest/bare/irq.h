/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * One interrupt, through the PIC: define IRQ, 3..15, and the label on_irq.
 *
 * A handler does not return: it resets the stack and waits again.  The main
 * programs have no state to return to, and KVM's emulator has no long-mode iretq.
 */
#define PIC1		0x20	/* master 8259A: command, then data at +1 */
#define PIC2		0xa0
#ifndef PIC_VECTOR
#define PIC_VECTOR	0x20	/* of IRQ 0; IRQ n is PIC_VECTOR + n */
#endif
#define PIC_ICW1	0x11	/* initialise, edge triggered, ICW4 follows */
#define PIC_ICW4	0x01	/* 8086 mode */
#define PIC_EOI		0x20
#define BOOT_CS		0x10
#define IDT_GATE	0x8e00	/* present, DPL 0, 64-bit interrupt gate */

/* Sleep until the next interrupt, with an empty stack; never returns. */
.macro WAIT
1:	lea	stack_top(%rip), %rsp
	sti			/* interrupts are taken after the next instruction: */
	hlt			/* none can slip in between */
	jmp	1b
.endm

/* Give an interrupt the time of some exits to come.  Changes AL, DX. */
.macro LISTEN
	sti
	.rept	3
	INB	I8042_STATUS
	.endr
	cli
.endm

.macro END_OF_INTERRUPT
#if IRQ >= 8
	OUTB	PIC_EOI, PIC2
#endif
	OUTB	PIC_EOI, PIC1
.endm

#if IRQ >= 8
#define MASK1		(0xff & ~(1 << 2))	/* the slave's line */
#define MASK2		(0xff & ~(1 << (IRQ - 8)))
#else
#define MASK1		(0xff & ~(1 << IRQ))
#define MASK2		0xff
#endif

	.text 1		/* behind the program, which _start falls into */
/* Unmask IRQ at both 8259As and point its gate at on_irq; changes AX, DX, DI. */
start_irq:
	call	load_idt
	call	start_pic
	ret

/* One gate; any exception is a triple fault. */
load_idt:
	lea	on_irq(%rip), %rax
	lea	idt + 16 * (PIC_VECTOR + IRQ)(%rip), %rdi
	mov	%ax, (%rdi)
	movw	$BOOT_CS, 2(%rdi)
	movw	$IDT_GATE, 4(%rdi)
	shr	$16, %rax
	mov	%eax, 6(%rdi)	/* linked at 1 MiB: the upper half is zero */
	lea	idt(%rip), %rax
	mov	%rax, idtr + 2(%rip)
	lidt	idtr(%rip)
	ret

/* Both 8259As, all masked but IRQ. */
start_pic:
	OUTB	PIC_ICW1, PIC1
	OUTB	PIC_VECTOR, (PIC1 + 1)
	OUTB	0x04, (PIC1 + 1)	/* ICW3: the slave is on IRQ 2 */
	OUTB	PIC_ICW4, (PIC1 + 1)
	OUTB	PIC_ICW1, PIC2
	OUTB	(PIC_VECTOR + 8), (PIC2 + 1)
	OUTB	0x02, (PIC2 + 1)	/* ICW3: I am that slave */
	OUTB	PIC_ICW4, (PIC2 + 1)
	OUTB	MASK1, (PIC1 + 1)
	OUTB	MASK2, (PIC2 + 1)
	ret

	.data
	.balign	8
idtr:
	.word	16 * (PIC_VECTOR + IRQ + 1) - 1
	.quad	0
	.bss
	.balign	16
idt:
	.skip	16 * (PIC_VECTOR + IRQ + 1)
	.text
	.text
