/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* level-ioapic: a level-triggered line through the IOAPIC and the local APIC. */
#include "bare.h"

#define LAPIC		0xfee00000
#define LAPIC_EOI	0xb0
#define LAPIC_SVR	0xf0
#define SVR_ENABLE	0x1ff
#define IOAPIC		0xfec00000	/* the index; the register is at +0x10 */
#define REDIRECTION	0x10		/* of pin 0; two registers each */
#define TRIGGER_LEVEL	(1 << 15)

.macro END_OF_LEVEL
	mov	$LAPIC, %edi
	movl	$0, LAPIC_EOI(%rdi)
.endm

#include "level.h"

start_line:
	call	load_idt
	OUTB	0xff, (PIC1 + 1)
	OUTB	0xff, (PIC2 + 1)
	mov	$LAPIC, %edi
	movl	$SVR_ENABLE, LAPIC_SVR(%rdi)
	mov	$IOAPIC, %edi
	movl	$(REDIRECTION + 2 * IRQ + 1), (%rdi)
	movl	$0, 0x10(%rdi)		/* to the first CPU */
	movl	$(REDIRECTION + 2 * IRQ), (%rdi)
	movl	$(TRIGGER_LEVEL | PIC_VECTOR + IRQ), 0x10(%rdi)
	ret
