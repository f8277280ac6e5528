/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * hammer: all CPUs write and read port 0x500 without pause; the first takes IRQ 5,
 * and tells of each by a write to port 0x501.
 *
 * Prints:	hammer			when all of them are at it
 * Ends:	when the first reads 71 (q): reset through the i8042
 */
#include "bare.h"
#include "smp.h"

#define IRQ 5
#include "irq.h"

main:
	call	start_cpus
	call	start_irq
	PRINT	"hammer\n"
strike:
	lea	stack_top(%rip), %rsp
	sti
1:	OUTB	1, TEST_PORT
	INB	TEST_PORT
	cmp	$'q', %al
	jne	1b
	jmp	reset

on_irq:				/* which doesn't return: see irq.h */
	OUTB	1, (TEST_PORT + 1)
	END_OF_INTERRUPT
	jmp	strike

cpu_main:
	OUTB	1, TEST_PORT
	INB	TEST_PORT
	jmp	cpu_main
