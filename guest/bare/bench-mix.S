/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* bench-mix: an access is a byte of polled output: LSR is read until it has THRE,
 * as a rule once, and THR is written; see bench.h. */
#include "bench.h"

block:
	mov	$BLOCK, %ecx
1:	mov	$'.', %al
	call	putc
	dec	%ecx
	jnz	1b
	ret
