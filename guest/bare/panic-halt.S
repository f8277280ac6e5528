/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * panic-halt: what a Linux that panics and never resets looks like from outside.
 *
 * Prints:	BUG: bare guest, its panic line, the rest of the report
 * Ends:	never; stop it from outside
 */
#include "bare.h"

main:
	PRINT	"all is well\nBUG: bare guest\n"
	PRINT	"Kernel panic - not syncing: bare guest\n"
	PRINT	"the rest of the report\n"
	cli
1:	hlt
	jmp	1b
