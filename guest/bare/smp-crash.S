/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * smp-crash: the third CPU has a triple fault, the others run or sleep.
 *
 * Prints:	cpu 02 crashes
 * Ends:	triple fault on the CPU whose APIC id is 2
 */
#include "bare.h"
#include "smp.h"

main:
	call	start_cpus
	lock incl go(%rip)
1:	pause
	jmp	1b

cpu_main:
	cmp	$2, %edi
	jne	2f
1:	pause
	cmpl	$0, go(%rip)
	je	1b
	PRINT	"cpu 02 crashes\n"
	lidt	idtr(%rip)
	mov	$0xfff8, %ax	/* #GP: no descriptor at this selector */
	mov	%ax, %ds
2:	ret

	.data
go:
	.long	0
idtr:
	.word	0
	.quad	0
