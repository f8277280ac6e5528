/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * debug-exit: ends the run as a test suite does: value 0x10 to isa-debug-exit, at
 * QEMU's own port, and a word of the same to where kvm-unit-tests expect it.
 *
 * Prints:	nothing; without such a device: no debug exit
 * Ends:	reset through the i8042, if nothing else did
 */
#include "bare.h"

main:
	OUTB	0x10, 0x501
	mov	$0x10, %eax
	out	%eax, $0xf4
	PRINT	"no debug exit\n"
	jmp	reset
