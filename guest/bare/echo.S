/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * echo: sends back each byte that it receives, through IRQ 4.
 *
 * Prints:	echo: ready, then what comes in
 * Ends:	on q or EOT (0x04), neither sent back: reset through the i8042
 *
 * FCR is left alone: to turn the FIFO on would clear what came in before us.
 */
#include "bare.h"

#define IRQ 4
#include "irq.h"

#define EOT		0x04

main:
	call	start_irq
	OUTB	UART_LCR_WLEN8, (COM1 + UART_LCR)
	OUTB	UART_MCR_OUT2, (COM1 + UART_MCR)
	PRINT	"echo: ready\n"
	OUTB	UART_IER_RDI, (COM1 + UART_IER)
	WAIT

on_irq:
	INB	(COM1 + UART_LSR)
	test	$UART_LSR_DR, %al
	jz	1f
	INB	(COM1 + UART_RX)
	cmp	$'q', %al
	je	reset
	cmp	$EOT, %al
	je	reset
	call	putc
	jmp	on_irq
1:	END_OF_INTERRUPT
	WAIT
