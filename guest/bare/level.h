/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * level, level-ioapic: two devices, at TEST_PORT and behind it, share level-triggered
 * IRQ 5.  A 1 that is written to one makes it hold the line, a 0 makes it let go.
 *
 * Prints:	irq 1		both hold it
 *		irq 2		likewise, for nobody has let go; now the first does
 *		irq 3		the second still holds it, and then lets go
 *		quiet		and so no more comes
 *		irq 4		but this, when the second holds it again
 *		quiet
 * Ends:	reset through the i8042
 *
 * The guest includes irq.h before, defines start_line and END_OF_LEVEL, and FORGETS if
 * its controller forgets what nobody holds any more: a local APIC doesn't, once it has
 * accepted it.  Nobody tells the PICs that the line is level-triggered: firmware did.
 */
#define HOLD	1
#define LET_GO	0

main:
	xor	%ebp, %ebp
	call	start_line
	OUTB	HOLD, TEST_PORT
	OUTB	HOLD, (TEST_PORT + 1)
	WAIT

on_irq:
	lea	stack_top(%rip), %rsp
	inc	%ebp
	PRINT	"irq "
	mov	%ebp, %ebx
	mov	$1, %cl
	call	puthex
	PRINT	"\n"
	cmp	$2, %ebp
	jb	again
	ja	alone
	OUTB	LET_GO, TEST_PORT
again:
	END_OF_LEVEL
	WAIT
alone:
	OUTB	LET_GO, (TEST_PORT + 1)
	END_OF_LEVEL
	LISTEN
	PRINT	"quiet\n"
	cmp	$3, %ebp
	ja	unseen
	OUTB	HOLD, (TEST_PORT + 1)
	WAIT
unseen:
#ifdef FORGETS
	OUTB	HOLD, (TEST_PORT + 1)
	OUTB	LET_GO, (TEST_PORT + 1)
	LISTEN
#endif
	jmp	reset
