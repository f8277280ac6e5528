/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Configuration space by ports 0xcf8 and 0xcfc (PCI Local Bus Specification 3.0,
 * section 3.2.2.3.2), and those of its registers that guests use: linux/pci_regs.h.
 */
#define CONFIG_ADDRESS	0xcf8
#define CONFIG_DATA	0xcfc
#define PCI_SLOT(slot)	(0x80000000 | (slot) << 11)	/* function 0; for R12 */

#define PCI_COMMAND	0x04		/* the upper half is Status */
#define PCI_COMMAND_IO	0x0001
#define PCI_COMMAND_MEMORY 0x0002
#define PCI_COMMAND_MASTER 0x0004
#define PCI_COMMAND_INTX_DISABLE 0x0400
#define PCI_STATUS_SHIFT 16
#define PCI_STATUS_INTERRUPT 0x08
#define PCI_BASE_ADDRESS_0 0x10
#define PCI_CAPABILITY_LIST 0x34

	.text 1		/* behind the program, which _start falls into */
/* Read register ECX of the function R12 into EAX; changes DX. */
config_read:
	call	config_address
	mov	$CONFIG_DATA, %dx
	in	%dx, %eax
	ret

/* Write EAX to register ECX of the function R12; changes DX. */
config_write:
	push	%rax
	call	config_address
	pop	%rax
	mov	$CONFIG_DATA, %dx
	out	%eax, %dx
	ret

config_address:
	mov	%r12d, %eax
	or	%ecx, %eax
	mov	$CONFIG_ADDRESS, %dx
	out	%eax, %dx
	ret
	.text
