/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* bench-lsr-read: an access is a read of LSR; see bench.h. */
#include "bench.h"

block:
	mov	$(COM1 + UART_LSR), %dx
	.rept	BLOCK
	in	%dx, %al
	.endr
	ret
