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
#include "apic.h"
#include "pci.h"

#define FIRST		PCI_SLOT(1)
#define SECOND		PCI_SLOT(2)

#define BASE_MASK	~0x3

#define HOLD	1
#define LET_GO	0

/* Write `value` to the port of the device whose BAR is in `bar`.  Changes AL, DX. */
.macro TELL bar, value
	mov	\bar, %edx
	mov	$\value, %al
	out	%al, %dx
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
	LAPIC_END_OF_INTERRUPT
	WAIT
second:
	mov	$(PCI_COMMAND_IO | PCI_COMMAND_INTX_DISABLE), %eax
	call	command
	LAPIC_END_OF_INTERRUPT
	LISTEN
	PRINT	"quiet"
	call	put_status
	mov	$PCI_COMMAND_IO, %eax
	call	command
	WAIT
third:
	TELL	%r14d, LET_GO
	LAPIC_END_OF_INTERRUPT
	LISTEN
	PRINT	"quiet"
	call	put_status
	jmp	reset

/* Have function R12 decode its ports, whose base is in EAX then; changes ECX, DX. */
enable:
	mov	$PCI_COMMAND_IO, %eax
	call	command
	mov	$PCI_BASE_ADDRESS_0, %ecx
	call	config_read
	and	$BASE_MASK, %eax
	ret

/* Write EAX to Command of function R12; changes ECX, DX. */
command:
	mov	$PCI_COMMAND, %ecx
	jmp	config_write

/* Print Interrupt Status of both, and a newline; R12 is the second then. */
put_status:
	PRINT	" "
	mov	$FIRST, %r12d
	call	put_bit
	mov	$SECOND, %r12d
	call	put_bit
	PRINT	"\n"
	ret

put_bit:
	mov	$PCI_COMMAND, %ecx
	call	config_read
	shr	$PCI_STATUS_SHIFT, %eax
	and	$PCI_STATUS_INTERRUPT, %eax
	mov	%eax, %ebx
	mov	$1, %cl
	jmp	puthex

start_line:
	call	start_lapic
	START_IOAPIC ACTIVE_LOW
	ret
