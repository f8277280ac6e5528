/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The local APIC, and a level-triggered line of the IOAPIC; after irq.h, whose PICs
 * are masked and whose vector it is.  Source: Intel SDM 3A, chapter 11; 82093AA.
 */
#define LAPIC		0xfee00000
#define LAPIC_EOI	0xb0
#define LAPIC_SVR	0xf0
#define SVR_ENABLE	0x1ff
#define IOAPIC		0xfec00000	/* the index; the register is at +0x10 */
#define REDIRECTION	0x10		/* of pin 0; two registers each */
#define TRIGGER_LEVEL	(1 << 15)
#define ACTIVE_LOW	(1 << 13)

.macro LAPIC_END_OF_INTERRUPT
	mov	$LAPIC, %edi
	movl	$0, LAPIC_EOI(%rdi)
.endm

/* IRQ goes to the first CPU, level-triggered, with these `flags`.  Changes EDI. */
.macro START_IOAPIC flags
	mov	$IOAPIC, %edi
	movl	$(REDIRECTION + 2 * IRQ + 1), (%rdi)
	movl	$0, 0x10(%rdi)		/* to the first CPU */
	movl	$(REDIRECTION + 2 * IRQ), (%rdi)
	movl	$(TRIGGER_LEVEL | \flags | PIC_VECTOR + IRQ), 0x10(%rdi)
.endm

	.text 1
/* Interrupts come by it alone.  Changes AX, DX, DI. */
start_lapic:
	call	load_idt
	OUTB	0xff, (PIC1 + 1)
	OUTB	0xff, (PIC2 + 1)
	mov	$LAPIC, %edi
	movl	$SVR_ENABLE, LAPIC_SVR(%rdi)
	ret
	.text
