/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * smp: start all CPUs, which then tell of themselves one after another.
 *
 * Prints:	cpu 01 leaf1 01 leafb 00000001	(all hexadecimal) for each but the first:
 *		its APIC id by the local APIC, CPUID leaf 1 and CPUID leaf 0xb
 *		smp 04		how many there are
 * Ends:	reset through the i8042
 */
#include "bare.h"
#include "smp.h"

main:
	call	start_cpus
	mov	cpus(%rip), %eax
1:	pause
	cmp	%eax, turn(%rip)
	jne	1b
	PRINT	"smp "
	mov	cpus(%rip), %ebx
	mov	$2, %cl
	call	puthex
	PRINT	"\n"
	jmp	reset

cpu_main:
	cmp	%edi, turn(%rip)
	pause
	jne	cpu_main
	PRINT	"cpu "
	mov	%edi, %ebx
	mov	$2, %cl
	call	puthex
	PRINT	" leaf1 "
	mov	$1, %eax
	cpuid
	shr	$24, %ebx
	mov	$2, %cl
	call	puthex
	PRINT	" leafb "
	mov	$0xb, %eax
	xor	%ecx, %ecx
	cpuid
	mov	%edx, %ebx
	mov	$8, %cl
	call	puthex
	PRINT	"\n"
	incl	turn(%rip)
	ret

	.data
turn:
	.long	1	/* the APIC id of who may print */
