/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* bench-doorbell: an access is a ring, 16 bits to 0xe8000000; see bench.h. */
#include "bench.h"

block:
	mov	$TEST_MMIO, %ecx
	xor	%eax, %eax
	.rept	BLOCK
	mov	%ax, (%rcx)
	.endr
	ret
