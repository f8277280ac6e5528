/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * pci: finds the device 1234:0c32 of examples/pci_device.py by ports 0xcf8 and 0xcfc,
 * sizes its BAR 0, moves it by 1 MiB, and has it sum up the nine bytes "123456789":
 * by DMA, and MSI-X to the local APIC.
 *
 * Prints:	slot 00 00081b36	what is in each slot, as the register reads
 *		slot 01 0c321234
 *		bar fffff000		what the BAR keeps of all ones
 *		moved ffffffff 00000000	the status at its old place, and at the new one
 *		sum cbf43926		the CRC-32 of that string, from the interrupt
 * Ends:	reset through the i8042; "no device" where it isn't there
 */
#include "bare.h"

#define IRQ 5		/* for its vector: the PICs are masked */
#include "irq.h"
#include "apic.h"
#include "pci.h"

#define SLOTS		32
#define NO_DEVICE	0xffffffff
#define IDENTITY	0x0c321234

#define PCI_CAP_ID_MSIX	0x11
#define PCI_MSIX_FLAGS_ENABLE 0x80000000 /* in the doubleword with the ID */
#define PCI_MSIX_TABLE	4		/* BAR number; ours begins there */
#define MSIX_DATA	8
#define MSIX_CONTROL	12

#define SOURCE		0		/* of the device, in BAR 0 */
#define TARGET		8
#define SIZE		16
#define STATUS		20

#define MESSAGE_DATA	(PIC_VECTOR + IRQ)
#define MOVE		0x100000

main:
	mov	$PCI_SLOT(0), %r12d
	xor	%r13d, %r13d
	mov	$SLOTS, %ebp
1:	xor	%ecx, %ecx
	call	config_read
	cmp	$NO_DEVICE, %eax
	je	2f
	cmp	$IDENTITY, %eax
	jne	3f
	mov	%r12d, %r13d
3:	call	put_slot
2:	add	$(PCI_SLOT(1) - PCI_SLOT(0)), %r12d
	dec	%ebp
	jnz	1b
	mov	%r13d, %r12d
	test	%r12d, %r12d
	jnz	found
nothing:
	PRINT	"no device\n"
	jmp	reset

found:
	mov	$PCI_BASE_ADDRESS_0, %ecx
	call	config_read
	mov	%eax, %r14d
	mov	$NO_DEVICE, %eax
	call	config_write
	call	config_read
	mov	%eax, %r15d
	PRINT	"bar "
	mov	%r15d, %ebx
	call	put8
	lea	MOVE(%r14), %eax
	mov	$PCI_BASE_ADDRESS_0, %ecx
	call	config_write
	mov	$PCI_COMMAND, %ecx
	mov	$(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER), %eax
	call	config_write
	PRINT	"\nmoved "
	mov	STATUS(%r14), %ebx
	call	put8
	PRINT	" "
	add	$MOVE, %r14d
	mov	STATUS(%r14), %ebx
	call	put8
	PRINT	"\n"

	call	find_msix
	call	start_interrupt
	lea	string(%rip), %rax
	mov	%rax, SOURCE(%r14)
	lea	result(%rip), %rax
	mov	%rax, TARGET(%r14)
	movl	$9, SIZE(%r14)
	movl	$0, STATUS(%r14)
	WAIT

on_irq:
	PRINT	"sum "
	mov	result(%rip), %ebx
	call	put8
	PRINT	"\n"
	jmp	reset

/* The offset of the MSI-X capability in R13; changes EAX, ECX, DX. */
find_msix:
	mov	$PCI_CAPABILITY_LIST, %ecx
	call	config_read
	movzbl	%al, %ecx
1:	test	%ecx, %ecx
	jz	nothing
	mov	%ecx, %r13d
	call	config_read
	cmp	$PCI_CAP_ID_MSIX, %al
	je	2f
	movzbl	%ah, %ecx
	jmp	1b
2:	ret

/* Vector 0 to this CPU's local APIC; changes EAX, ECX, EDI, DX. */
start_interrupt:
	call	load_idt
	OUTB	0xff, (PIC1 + 1)
	OUTB	0xff, (PIC2 + 1)
	mov	$LAPIC, %edi
	movl	$SVR_ENABLE, LAPIC_SVR(%rdi)
	lea	PCI_MSIX_TABLE(%r13), %ecx
	call	config_read
	lea	PCI_BASE_ADDRESS_0(, %rax, 4), %ecx
	call	config_read
	mov	%eax, %edi
	movl	$LAPIC, (%rdi)
	movl	$0, 4(%rdi)
	movl	$MESSAGE_DATA, MSIX_DATA(%rdi)
	movl	$0, MSIX_CONTROL(%rdi)
	mov	%r13d, %ecx
	call	config_read
	or	$PCI_MSIX_FLAGS_ENABLE, %eax
	call	config_write
	ret

/* Print the slot of the function R12, and EAX. */
put_slot:
	push	%rax
	PRINT	"slot "
	mov	%r12d, %ebx
	shr	$11, %ebx
	mov	$2, %cl
	call	puthex
	PRINT	" "
	pop	%rbx
	call	put8
	PRINT	"\n"
	ret

/* Print EBX in 8 hexadecimal digits. */
put8:
	mov	$8, %cl
	jmp	puthex

	.section .rodata
string:
	.ascii	"123456789"
	.bss
	.balign	4
result:
	.skip	4
	.text
