/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * ticks: counts the i8254's in RBX, 1,000 a second, and sleeps in between.
 *
 * Prints:	ticks
 * Ends:	never; stop it from outside
 */
#include "bare.h"

#define IRQ 0
#include "irq.h"

#define PIT_CH0		0x40
#define PIT_MODE	0x43
#define PIT_CH0_RATE	0x34	/* channel 0, low byte then high byte, mode 2 */
#define PIT_DIVISOR	1193	/* of 1.193182 MHz */

main:
	PRINT	"ticks\n"
	xor	%ebx, %ebx
	call	start_irq
	OUTB	PIT_CH0_RATE, PIT_MODE
	OUTB	(PIT_DIVISOR & 0xff), PIT_CH0
	OUTB	(PIT_DIVISOR >> 8), PIT_CH0
	WAIT

on_irq:
	inc	%ebx
	END_OF_INTERRUPT
	WAIT
