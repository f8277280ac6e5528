/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * bad-jump: executes where no memory is, which KVM cannot emulate.
 *
 * Prints:	bad jump
 * Ends:	KVM_EXIT_INTERNAL_ERROR, emulation failure, RIP 0xe8000000
 */
#include "bare.h"

main:
	PRINT	"bad jump\n"
	mov	$TEST_MMIO, %eax
	jmp	*%rax
