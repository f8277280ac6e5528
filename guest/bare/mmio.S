/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * mmio: writes, then reads back, 1, 2, 4 and 8 bytes at 0xe8000000 + 0, 8, 16, 24.
 *
 * Prints:	mmio 1 ff		where nobody claims the address;
 *		mmio 2 ffff		a device that keeps what is written
 *		mmio 4 ffffffff		gives 11, 2222, 44444444, 8888888888888888
 *		mmio 8 ffffffffffffffff
 * Ends:	reset through the i8042
 */
#include "bare.h"

main:
	mov	$TEST_MMIO, %ebp
	mov	$0x8888888888888888, %rax
	movb	$0x11, (%rbp)
	movw	$0x2222, 8(%rbp)
	movl	$0x44444444, 16(%rbp)
	mov	%rax, 24(%rbp)

	PRINT	"mmio 1 "
	mov	(%rbp), %bl
	mov	$2, %cl
	call	puthex
	PRINT	"\nmmio 2 "
	mov	8(%rbp), %bx
	mov	$4, %cl
	call	puthex
	PRINT	"\nmmio 4 "
	mov	16(%rbp), %ebx
	mov	$8, %cl
	call	puthex
	PRINT	"\nmmio 8 "
	mov	24(%rbp), %rbx
	mov	$16, %cl
	call	puthex
	PRINT	"\n"
	jmp	reset
