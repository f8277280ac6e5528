/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * post-code: firmware that tells at port 0x80 how far it has come, and stops there.
 *
 * Prints:	post 7e			read back: the last but one
 * Ends:	triple fault, after code 7f
 */
#include "bare.h"

#define POST_PORT 0x80

main:
	xor	%eax, %eax
1:	out	%al, $POST_PORT
	inc	%al
	cmp	$0x7f, %al
	jne	1b
	PRINT	"post "
	in	$POST_PORT, %al
	mov	%al, %bl
	mov	$2, %cl
	call	puthex
	PRINT	"\n"
	OUTB	0x7f, POST_PORT
	lidt	no_idt(%rip)
	ud2

	.section .rodata
no_idt:	.word	0
	.quad	0
	.text
