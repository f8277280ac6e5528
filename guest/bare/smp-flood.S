/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * smp-flood: all CPUs poll LSR and write THR at once, without asking each other.
 *
 * Prints:	4096 times 'A' from the first CPU, 'B' from the second, ..., mixed
 * Ends:	reset through the i8042
 */
#include "bare.h"
#include "smp.h"

#define BYTES		4096

main:
	call	start_cpus
	xor	%edi, %edi
	call	cpu_main
	mov	cpus(%rip), %eax
1:	pause
	cmp	%eax, done(%rip)
	jne	1b
	jmp	reset

cpu_main:
	mov	cpus(%rip), %eax	/* they start together */
1:	pause
	cmp	%eax, running(%rip)
	jb	1b
	add	$'A', %edi
	mov	$BYTES, %ecx
2:	mov	%edi, %eax
	call	putc
	dec	%ecx
	jnz	2b
	lock incl done(%rip)
	ret

	.data
done:
	.long	0
