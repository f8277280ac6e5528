/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * spin: runs for ever without an exit.
 *
 * Prints:	spin
 * Ends:	never; stop it from outside
 */
#include "bare.h"

main:
	PRINT	"spin\n"
	cli
1:	jmp	1b
