/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * blind: writes a line to COM1 without ever reading a register, and halts.
 *
 * Prints:	blind
 * Ends:	never: it halts with interrupts off
 */
#include "bare.h"

main:
	mov	$(COM1 + UART_TX), %dx
	lea	message(%rip), %rsi
	mov	$(message_end - message), %ecx
	cli
1:	lodsb
	out	%al, %dx
	dec	%ecx
	jnz	1b
2:	hlt
	jmp	2b

	.section .rodata
message:
	.ascii	"blind\n"
message_end:
