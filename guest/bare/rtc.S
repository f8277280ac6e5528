/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * rtc: each interrupt of the MC146818 on IRQ 8, told by its register C.
 *
 * Prints:	rtc c0		periodic
 *		rtc 90		update ended
 *		rtc b0		alarm, every second, with the update that brings it
 *				(and flags of what is not enabled, but came)
 * Ends:	reset through the i8042
 */
#include "bare.h"

#define IRQ 8
#include "irq.h"

#define RTC_INDEX	0x70
#define RTC_DATA	0x71
#define RTC_A		0x0a
#define RTC_B		0x0b
#define RTC_C		0x0c
#define RTC_A_64HZ	0x2a	/* 32.768 kHz time base, rate 10 */
#define RTC_B_24H	0x02
#define RTC_B_UIE	0x10
#define RTC_B_AIE	0x20
#define RTC_B_PIE	0x40
#define RTC_C_IRQF	0x80
#define RTC_ANY		0xc0	/* in an alarm register: every value matches */

/* Write the constant `value` to `register`.  Changes AL, DX. */
.macro RTC register, value
	OUTB	\register, RTC_INDEX
	OUTB	\value, RTC_DATA
.endm

main:
	call	start_irq
	xor	%ebp, %ebp		/* interrupts so far */
	RTC	RTC_A, RTC_A_64HZ
	RTC	RTC_B, (RTC_B_24H | RTC_B_PIE)
	WAIT

on_irq:
	OUTB	RTC_C, RTC_INDEX
	INB	RTC_DATA
	test	$RTC_C_IRQF, %al
	jz	done			/* an edge from before register B changed */
	movzbl	%al, %ebx
	PRINT	"rtc "
	mov	$2, %cl
	call	puthex
	PRINT	"\n"
	inc	%ebp
	cmp	$2, %ebp
	je	alarm
	ja	reset
	RTC	RTC_B, (RTC_B_24H | RTC_B_UIE)
	jmp	done
alarm:
	RTC	0x01, RTC_ANY		/* seconds, minutes, hours */
	RTC	0x03, RTC_ANY
	RTC	0x05, RTC_ANY
	RTC	RTC_B, (RTC_B_24H | RTC_B_AIE)
done:
	END_OF_INTERRUPT
	WAIT
