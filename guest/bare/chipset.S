/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * chipset: A20 at port 0x92, the reset control beside a PCI bus that isn't there, and
 * a probe for that bus as Linux does it (pci_check_type1, pci_check_type2).
 *
 * Prints:	a20 02			on from the start
 *		a20 00			and off when told so, though it masks nothing
 *		cf9 0a			keeps the kind of reset, resets nothing
 *		type 1 ffffffff		what was written does not come back
 *		type 2 ff
 *		vendor ffffffff		no device
 * Ends:	reset through the i8042
 */
#include "bare.h"

#define PORT_A		0x92
#define CONFIG_ADDRESS	0xcf8
#define CONFIG_DATA	0xcfc
#define RESET_CONTROL	0xcf9

.macro SHOW string, digits
	PRINT	"\string "
	mov	$\digits, %cl
	call	puthex
	PRINT	"\n"
.endm

/* Read `port` and print all eight bits, or all 32. */
.macro SHOW_BYTE string, port
	INB	\port
	mov	%al, %bl
	SHOW	"\string", 2
.endm

.macro SHOW_LONG string, port
	mov	$\port, %dx
	in	%dx, %eax
	mov	%eax, %ebx
	SHOW	"\string", 8
.endm

main:
	SHOW_BYTE "a20", PORT_A
	OUTB	0x00, PORT_A
	SHOW_BYTE "a20", PORT_A
	OUTB	0x0a, RESET_CONTROL
	SHOW_BYTE "cf9", RESET_CONTROL

	OUTB	0x01, (CONFIG_ADDRESS + 3)
	mov	$0x80000000, %eax
	mov	$CONFIG_ADDRESS, %dx
	out	%eax, %dx
	SHOW_LONG "type 1", CONFIG_ADDRESS

	OUTB	0x00, (CONFIG_ADDRESS + 3)
	OUTB	0x00, CONFIG_ADDRESS
	OUTB	0x00, (CONFIG_ADDRESS + 2)
	SHOW_BYTE "type 2", CONFIG_ADDRESS
	SHOW_LONG "vendor", CONFIG_DATA
	jmp	reset
