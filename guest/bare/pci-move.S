/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * pci-move: the first CPU moves the ports of the PCI device in slot 1, BAR 0, to and
 * fro, while all others read the first one and write the ninth, wherever they are.
 *
 * Prints:	moved		after 128 moves; every read gave 2a, or ff where it wasn't
 *		read xx		where one gave something else
 * Ends:	reset through the i8042
 */
#include "bare.h"
#include "smp.h"
#include "pci.h"

#define HERE		0xd000
#define THERE		0xd800
#define MOVES		64		/* to and fro */
#define VALUE		0x2a
#define NOBODY		0xff

/* Write `value` to `register` of the device.  Changes EAX, DX. */
.macro CONFIG value, register
	mov	$(PCI_SLOT(1) + \register), %eax
	mov	$CONFIG_ADDRESS, %dx
	out	%eax, %dx
	mov	$\value, %eax
	mov	$CONFIG_DATA, %dx
	out	%eax, %dx
.endm

/* Read the device at `ports`, if it is there, and ring.  Changes AL, DX. */
.macro VISIT ports
	INB	\ports
	cmp	$VALUE, %al
	je	1f
	cmp	$NOBODY, %al
	je	1f
	mov	%al, wrong(%rip)
1:	OUTB	0, (\ports + 8)
.endm

main:
	CONFIG	HERE, PCI_BASE_ADDRESS_0
	CONFIG	PCI_COMMAND_IO, PCI_COMMAND
	call	start_cpus
	mov	$MOVES, %ecx
1:	CONFIG	THERE, PCI_BASE_ADDRESS_0
	CONFIG	HERE, PCI_BASE_ADDRESS_0
	dec	%ecx
	jnz	1b
	movl	$1, is_over(%rip)
	mov	cpus(%rip), %eax
	dec	%eax
2:	pause
	cmp	%eax, done(%rip)
	jne	2b
	movzbl	wrong(%rip), %ebx
	test	%ebx, %ebx
	jnz	3f
	PRINT	"moved\n"
	jmp	reset
3:	PRINT	"read "
	mov	$2, %cl
	call	puthex
	PRINT	"\n"
	jmp	reset

cpu_main:
	VISIT	HERE
	VISIT	THERE
	cmpl	$0, is_over(%rip)
	je	cpu_main
	lock incl done(%rip)
	ret

	.data
	.balign	4
is_over:
	.long	0
done:
	.long	0
wrong:
	.byte	0
