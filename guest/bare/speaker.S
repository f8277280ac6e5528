/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * speaker: port 0x61: timer 2's gate and output, the speaker's data, the refresh
 * toggle. Source: Intel 8254, mode 0; IBM PC AT Technical Reference, port 61.
 *
 * Prints:	gate 01 data 02		what is written to bits 0 and 1 is read back
 *		refresh toggles
 *		out 00 then 20		low when the count is loaded, high when it is over
 *
 * The gate of a real 8254 holds a count of mode 0; that of KVM's doesn't (pit_set_gate
 * in arch/x86/kvm/i8254.c), so that isn't looked at here.
 * Ends:	reset through the i8042; hangs where one of them never comes
 */
#include "bare.h"

#define PORT_61		0x61
#define GATE_2		0x01
#define SPEAKER_DATA	0x02
#define REFRESH		0x10
#define OUT_2		0x20
#define PIT_CHANNEL_2	0x42
#define PIT_COMMAND	0x43
#define MODE_0_OF_2	0xb0	/* low byte, then high byte; binary */
#define COUNT_LOW	0xff	/* 65535 ticks: 55 ms */
#define COUNT_HIGH	0xff

/* Wait until the refresh bit has changed CX times.  Changes AL, AH, DX. */
.macro TOGGLES
	INB	PORT_61
	mov	%al, %ah
1:	INB	PORT_61
	xor	%ah, %al
	test	$REFRESH, %al
	jz	1b
	xor	%al, %ah
	dec	%cx
	jnz	1b
.endm

.macro SHOW_BITS string, mask
	PRINT	"\string"
	INB	PORT_61
	and	$\mask, %al
	mov	%al, %bl
	mov	$2, %cl
	call	puthex
.endm

main:
	OUTB	GATE_2, PORT_61
	SHOW_BITS "gate ", (GATE_2 | SPEAKER_DATA)
	OUTB	SPEAKER_DATA, PORT_61
	SHOW_BITS " data ", (GATE_2 | SPEAKER_DATA)
	mov	$4, %cx
	TOGGLES
	PRINT	"\nrefresh toggles\n"

	OUTB	GATE_2, PORT_61
2:	OUTB	MODE_0_OF_2, PIT_COMMAND
	OUTB	COUNT_LOW, PIT_CHANNEL_2
	OUTB	COUNT_HIGH, PIT_CHANNEL_2
	INB	PORT_61
	test	$OUT_2, %al
	jnz	2b			/* we were not run for so long */
	PRINT	"out 00 then "
3:	INB	PORT_61
	test	$OUT_2, %al
	jz	3b
	SHOW_BITS "", OUT_2
	PRINT	"\n"
	jmp	reset
