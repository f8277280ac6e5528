/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* level: a level-triggered line through the PICs. */
#include "bare.h"

#define IRQ 5
#include "irq.h"

#define END_OF_LEVEL	END_OF_INTERRUPT
#define FORGETS
#include "level.h"

start_line:
	jmp	start_irq
