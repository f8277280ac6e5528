/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* bench-thr-write: an access is a write to THR, which never asks LSR; see bench.h. */
#include "bench.h"

block:
	mov	$(COM1 + UART_TX), %dx
	mov	$'.', %al
	.rept	BLOCK
	out	%al, %dx
	.endr
	ret
