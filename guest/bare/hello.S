/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * hello: polled serial output, then reset.
 *
 * Prints:	hello from the bare guest
 * Ends:	reset through the i8042
 */
#include "bare.h"

main:
	PRINT	"hello from the bare guest\n"
	jmp	reset
