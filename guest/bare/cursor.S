/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * cursor: asks a CRT controller where the cursor is, moves it, and waits for a retrace.
 *
 * Prints:	at 0000
 *		at 07cf
 *		retrace
 * Ends:	reset through the i8042; hangs where a retrace never comes or ends
 */
#include "bare.h"

#define CRTC		0x3d4
#define STATUS		0x3da
#define VRETRACE	0x08
#define CURSOR_HIGH	0x0e
#define CURSOR_LOW	0x0f

.macro SHOW
	OUTB	CURSOR_HIGH, CRTC
	INB	(CRTC + 1)
	movzbl	%al, %ebx
	shl	$8, %ebx
	OUTB	CURSOR_LOW, CRTC
	INB	(CRTC + 1)
	mov	%al, %bl
	PRINT	"at "
	mov	$4, %cl
	call	puthex
	PRINT	"\n"
.endm

main:
	SHOW
	mov	$CRTC, %dx
	mov	$(0x07 << 8 | CURSOR_HIGH), %ax
	out	%ax, %dx		/* both registers at once */
	mov	$(0xcf << 8 | CURSOR_LOW), %ax
	out	%ax, %dx
	SHOW
1:	INB	STATUS
	test	$VRETRACE, %al
	jz	1b
2:	INB	STATUS
	test	$VRETRACE, %al
	jnz	2b
	PRINT	"retrace\n"
	jmp	reset
