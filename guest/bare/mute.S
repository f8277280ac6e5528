/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * mute: prints nothing and never ends, as Linux does without console=ttyS0.
 *
 * Ends:	never; stop it from outside
 */
#include "bare.h"

main:
	cli
1:	hlt
	jmp	1b
