/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * panic: what a Linux that panics and then resets looks like from outside.
 *
 * Prints:	Kernel panic - not syncing: bare guest
 * Ends:	reset through the i8042
 */
#include "bare.h"

main:
	PRINT	"Kernel panic - not syncing: bare guest\n"
	jmp	reset
