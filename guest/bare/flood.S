/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * flood: writes to COM1 for ever and as fast as it can, never asking LSR.
 *
 * Prints:	flood, line after line
 * Ends:	never; stop it from outside
 */
#include "bare.h"

main:
	mov	$(COM1 + UART_TX), %dx
1:	lea	message(%rip), %rsi
	mov	$(message_end - message), %ecx
2:	lodsb
	out	%al, %dx
	dec	%ecx
	jnz	2b
	jmp	1b

	.section .rodata
message:
	.ascii	"flood\n"
message_end:
