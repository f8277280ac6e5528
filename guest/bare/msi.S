/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * msi: moves the ports of the PCI device in slot 1, BAR 0, to 0xd000, has it send its
 * MSI to the local APIC, and tells of each; then it writes a byte to the ninth port.
 *
 * Prints:	ready
 *		msi 01 2a	for each interrupt its number, and what the port reads
 * Ends:	reset through the i8042 when the port reads ff; "no msi" where the
 *		device's first capability is another
 */
#include "bare.h"

#define IRQ 5		/* for its vector: the PICs are masked */
#include "irq.h"
#include "apic.h"
#include "pci.h"

#define PORTS		0xd000

#define PCI_CAP_ID_MSI	0x05
#define PCI_MSI_FLAGS_ENABLE 0x10000	/* in the doubleword with the ID */
#define PCI_MSI_ADDRESS_LO 4
#define PCI_MSI_ADDRESS_HI 8
#define PCI_MSI_DATA_64	12

main:
	xor	%ebp, %ebp
	mov	$PCI_SLOT(1), %r12d
	call	start_lapic

	mov	$PCI_BASE_ADDRESS_0, %ecx
	mov	$PORTS, %eax
	call	config_write
	mov	$PCI_COMMAND, %ecx
	mov	$(PCI_COMMAND_IO | PCI_COMMAND_MASTER), %eax
	call	config_write

	mov	$PCI_CAPABILITY_LIST, %ecx
	call	config_read
	movzbl	%al, %r13d
	mov	%r13d, %ecx
	call	config_read
	cmp	$PCI_CAP_ID_MSI, %al
	jne	nothing
	mov	%eax, %r14d
	lea	PCI_MSI_ADDRESS_LO(%r13), %ecx
	mov	$LAPIC, %eax
	call	config_write
	lea	PCI_MSI_ADDRESS_HI(%r13), %ecx
	xor	%eax, %eax
	call	config_write
	lea	PCI_MSI_DATA_64(%r13), %ecx
	mov	$(PIC_VECTOR + IRQ), %eax
	call	config_write
	mov	%r13d, %ecx
	mov	%r14d, %eax
	or	$PCI_MSI_FLAGS_ENABLE, %eax
	call	config_write
	PRINT	"ready\n"
	WAIT

nothing:
	PRINT	"no msi\n"
	jmp	reset

on_irq:
	lea	stack_top(%rip), %rsp
	inc	%ebp
	LAPIC_END_OF_INTERRUPT
	PRINT	"msi "
	mov	%ebp, %ebx
	mov	$2, %cl
	call	puthex
	PRINT	" "
	INB	PORTS
	movzbl	%al, %r15d
	mov	%r15d, %ebx
	mov	$2, %cl
	call	puthex
	PRINT	"\n"
	OUTB	0, (PORTS + 8)
	cmp	$0xff, %r15d
	je	reset
	WAIT
