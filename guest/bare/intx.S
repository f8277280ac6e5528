/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * intx: two PCI devices 1234:0002, in slots 1 and 2, share level-triggered line 11 of
 * the IOAPIC.  Each has a port, its BAR 0: a 1 there has it interrupt, a 0 let go.
 *
 * Prints:	irq 1 88	both hold it, as the Status of each tells by its bit 3
 *		irq 2 08	the first has let go
 *		quiet 08	Interrupt Disable keeps the second from the line
 *		irq 3 08	and no longer does; it lets go
 *		quiet 00
 * Ends:	reset through the i8042
 */
#include "bare.h"

#define IRQ 11
#include "irq.h"

#define CONFIG_ADDRESS	0xcf8
#define CONFIG_DATA	0xcfc
#define FIRST		0x80000800
#define SECOND		0x80001000

#define PCI_COMMAND	0x04		/* and PCI_STATUS: registers: linux/pci_regs.h */
#define PCI_COMMAND_IO	0x0001
#define PCI_COMMAND_INTX_DISABLE 0x0400
#define PCI_STATUS_SHIFT 16
#define PCI_STATUS_INTERRUPT 0x08
#define PCI_BASE_ADDRESS_0 0x10
#define BASE_MASK	~0x3

#define LAPIC		0xfee00000
#define LAPIC_EOI	0xb0
#define LAPIC_SVR	0xf0
#define SVR_ENABLE	0x1ff
#define IOAPIC		0xfec00000	/* the index; the register is at +0x10 */
#define REDIRECTION	0x10		/* of pin 0; two registers each */
#define TRIGGER_LEVEL	(1 << 15)
#define ACTIVE_LOW	(1 << 13)

#define HOLD	1
#define LET_GO	0

/* Write `value` to the port of the device whose BAR is in `bar`.  Changes AL, DX. */
.macro TELL bar, value
	mov	\bar, %edx
	mov	$\value, %al
	out	%al, %dx
.endm

/* Give an interrupt the time of some exits to come.  Changes AL, DX. */
.macro LISTEN
	sti
	.rept	3
	INB	I8042_STATUS
	.endr
	cli
.endm

.macro END_OF_LEVEL
	mov	$LAPIC, %edi
	movl	$0, LAPIC_EOI(%rdi)
.endm

main:
	mov	$FIRST, %r12d
	call	enable
	mov	%eax, %r13d
	mov	$SECOND, %r12d
	call	enable
	mov	%eax, %r14d
	call	start_line
	xor	%ebp, %ebp
	TELL	%r13d, HOLD
	TELL	%r14d, HOLD
	WAIT

on_irq:
	lea	stack_top(%rip), %rsp
	inc	%ebp
	PRINT	"irq "
	mov	%ebp, %ebx
	mov	$1, %cl
	call	puthex
	call	put_status
	cmp	$2, %ebp
	je	second
	ja	third
	TELL	%r13d, LET_GO
	END_OF_LEVEL
	WAIT
second:
	mov	$(PCI_COMMAND_IO | PCI_COMMAND_INTX_DISABLE), %eax
	call	command
	END_OF_LEVEL
	LISTEN
	PRINT	"quiet"
	call	put_status
	mov	$PCI_COMMAND_IO, %eax
	call	command
	WAIT
third:
	TELL	%r14d, LET_GO
	END_OF_LEVEL
	LISTEN
	PRINT	"quiet"
	call	put_status
	jmp	reset

/* Have function R12 decode its ports, whose base is in EAX then; changes DX. */
enable:
	mov	$PCI_COMMAND_IO, %eax
	call	command
	lea	PCI_BASE_ADDRESS_0(%r12), %eax
	call	config_read
	and	$BASE_MASK, %eax
	ret

/* Write EAX to Command of function R12; changes EAX, DX. */
command:
	push	%rax
	lea	PCI_COMMAND(%r12), %eax
	mov	$CONFIG_ADDRESS, %dx
	out	%eax, %dx
	pop	%rax
	mov	$CONFIG_DATA, %dx
	out	%ax, %dx
	ret

/* Read the register EAX into EAX; changes DX. */
config_read:
	mov	$CONFIG_ADDRESS, %dx
	out	%eax, %dx
	mov	$CONFIG_DATA, %dx
	in	%dx, %eax
	ret

/* Print Interrupt Status of both, and a newline; changes EAX, EBX, ECX, DX. */
put_status:
	PRINT	" "
	mov	$(FIRST + PCI_COMMAND), %eax
	call	put_bit
	mov	$(SECOND + PCI_COMMAND), %eax
	call	put_bit
	PRINT	"\n"
	ret

put_bit:
	call	config_read
	shr	$PCI_STATUS_SHIFT, %eax
	and	$PCI_STATUS_INTERRUPT, %eax
	mov	%eax, %ebx
	mov	$1, %cl
	jmp	puthex

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
	movl	$(TRIGGER_LEVEL | ACTIVE_LOW | PIC_VECTOR + IRQ), 0x10(%rdi)
	ret
