/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * All CPUs: start_cpus wakes the others by INIT and SIPI, and waits for them.
 *
 * Each of them then calls the label cpu_main in long mode, with its APIC id in
 * EDI and a stack of its own; CPUs beyond CPUS_MAX stay asleep.  How many there
 * are is what CPUID leaf 1 says.  Sources: Intel SDM volume 3, "MP Initialization"
 * and "Issuing Interprocessor Interrupts".
 */
#define CPUS_MAX	32
#define LAPIC		0xfee00000
#define LAPIC_ID	0x20	/* in bits 31:24 */
#define LAPIC_SVR	0xf0
#define LAPIC_ICR	0x300
#define SVR_ENABLE	0x1ff
#define ICR_INIT	0xc4500	/* to all but the sender, asserted */
#define ICR_SIPI	0xc4600	/* likewise; bits 7:0 are the page to start at */
#define ICR_PENDING	0x1000

#define TRAMPOLINE	0x10000	/* where nothing of the boot protocol is */
#define PML4		0x9000	/* of the VMM: the first 4 GiB, identity-mapped */
#define CODE32		0x08
#define CODE64		0x10
#define DATA		0x18
#define CR0_PE		0x00000001
#define CR0_PG		0x80000000
#define CR4_PAE		0x20
#define EFER		0xc0000080
#define EFER_LME	0x100

	.text 1
/* Start all other CPUs; returns once each runs.  Changes nearly everything. */
start_cpus:
	mov	$1, %eax
	cpuid
	shr	$16, %ebx
	movzbl	%bl, %ebx
	mov	%ebx, cpus(%rip)
	lea	trampoline(%rip), %rsi
	mov	$TRAMPOLINE, %edi
	mov	$(trampoline_end - trampoline), %ecx
	rep movsb
	mov	$LAPIC, %edi
	movl	$SVR_ENABLE, LAPIC_SVR(%rdi)
	mov	$ICR_INIT, %eax
	call	send_ipi
	mov	$(ICR_SIPI | TRAMPOLINE >> 12), %eax
	call	send_ipi
	mov	cpus(%rip), %eax
1:	pause
	cmp	%eax, running(%rip)
	jb	1b
	ret

send_ipi:
	mov	%eax, LAPIC_ICR(%rdi)
1:	testl	$ICR_PENDING, LAPIC_ICR(%rdi)
	jnz	1b
	ret

/* Copied to TRAMPOLINE: from real mode to long mode. */
trampoline:
	.code16
	cli
	mov	%cs, %ax
	mov	%ax, %ds
	lgdtl	(gdtr - trampoline)
	mov	$CR0_PE, %eax
	mov	%eax, %cr0
	ljmpl	$CODE32, $(TRAMPOLINE + protected - trampoline)
	.code32
protected:
	mov	$DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$CR4_PAE, %eax
	mov	%eax, %cr4
	mov	$PML4, %eax
	mov	%eax, %cr3
	mov	$EFER, %ecx
	mov	$EFER_LME, %eax
	xor	%edx, %edx
	wrmsr
	mov	$(CR0_PG | CR0_PE), %eax
	mov	%eax, %cr0
	ljmpl	$CODE64, $woken
	.balign	8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* CODE32 */
	.quad	0x00af9b000000ffff	/* CODE64 */
	.quad	0x00cf93000000ffff	/* DATA */
gdtr:
	.word	gdtr - gdt - 1
	.long	TRAMPOLINE + gdt - trampoline
trampoline_end:
	.code64

woken:
	mov	$LAPIC, %eax
	mov	LAPIC_ID(%rax), %edi
	shr	$24, %edi
	cmp	$CPUS_MAX, %edi
	jae	2f
	mov	%edi, %eax
	inc	%eax
	shl	$8, %eax
	lea	stacks(%rip), %rsp
	add	%rax, %rsp
	lock incl running(%rip)
	call	cpu_main
2:	cli
	hlt
	jmp	2b

	.data
	.balign	8
	.globl	cpus, running
cpus:
	.long	0
running:
	.long	1	/* the one that starts the others */
	.bss
	.balign	16
stacks:
	.skip	256 * CPUS_MAX
	.text
