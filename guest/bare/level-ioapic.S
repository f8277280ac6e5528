/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* level-ioapic: a level-triggered line through the IOAPIC and the local APIC. */
#include "bare.h"

#define IRQ 5
#include "irq.h"
#include "apic.h"

#define END_OF_LEVEL LAPIC_END_OF_INTERRUPT
#include "level.h"

start_line:
	call	start_lapic
	START_IOAPIC 0
	ret
