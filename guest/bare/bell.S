/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * bell: rings doorbells, port 0x500 and address 0xe8000000, ten times each.
 *
 * A ring is a write of 16 bits 0x0007 to the port, of 32 bits to the address.
 * After each it polls port 0x508 until that reads another value than before: the
 * device has been told.  Then it writes 0x0008 to port 0x500, which is no ring.
 *
 * Prints:	bell done
 * Ends:	reset through the i8042
 */
#include "bare.h"

main:
	mov	$10, %ebp
1:	INB	(TEST_PORT + 8)
	mov	%al, %bl
	mov	$TEST_PORT, %dx
	mov	$7, %ax
	out	%ax, %dx
	call	wait
	mov	$TEST_MMIO, %esi
	movl	$0, (%rsi)
	call	wait
	dec	%ebp
	jnz	1b

	mov	$TEST_PORT, %dx
	mov	$8, %ax
	out	%ax, %dx
	PRINT	"bell done\n"
	jmp	reset

/* Wait until port 0x508 no longer reads BL, and set BL to what it reads. */
wait:
	mov	$(TEST_PORT + 8), %dx
1:	in	%dx, %al
	cmp	%al, %bl
	je	1b
	mov	%al, %bl
	ret
