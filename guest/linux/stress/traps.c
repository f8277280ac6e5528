/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Exceptions, and the signals that Linux makes of them: arch/x86/kernel/traps.c. */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "stress.h"
#include "trap.h"

#define NOT_CANONICAL "$0x8000000000000000"

INSTRUCTION(undefined, "", "ud2");
INSTRUCTION(into, "", ".byte 0xce");
INSTRUCTION(bound, "", ".byte 0x62, 0, 0, 0, 0, 0");
INSTRUCTION(lock_nop, "", ".byte 0xf0, 0x90");
INSTRUCTION(too_long, "", ".fill 15, 1, 0x66; nop");
INSTRUCTION(divide_by_0, "xor %ecx, %ecx; xor %edx, %edx; mov $1, %eax", "div %ecx");
INSTRUCTION(quotient_too_big, "mov $-1, %ecx; mov $-1, %edx; mov $0x80000000, %eax",
	    "idiv %ecx");
INSTRUCTION(breakpoint, "", "int3");
INSTRUCTION(breakpoint_by_number, "", ".byte 0xcd, 3");
INSTRUCTION(overflow, "", "int $4");
INSTRUCTION(icebp, "", ".byte 0xf1");
INSTRUCTION(step, "pushf; orl $0x100, (%rsp); popf", "nop");
INSTRUCTION(null_read, "xor %ecx, %ecx", "mov 8(%rcx), %eax");
INSTRUCTION(null_write, "xor %ecx, %ecx", "mov %eax, 16(%rcx)");
INSTRUCTION(null_call, "xor %ecx, %ecx", "call *%rcx");
INSTRUCTION(wild_read, "mov " NOT_CANONICAL ", %rcx", "mov (%rcx), %eax");
INSTRUCTION(wild_stack, "mov %rsp, %rdx; mov " NOT_CANONICAL ", %rsp", "push %rax");
INSTRUCTION(wild_jump, "mov " NOT_CANONICAL ", %rcx", "jmp *%rcx");
INSTRUCTION(wild_return, "movabs " NOT_CANONICAL ", %rcx; push %rcx", "ret");
INSTRUCTION(misaligned_sse, "", "movaps %xmm0, -23(%rsp)");
INSTRUCTION(misaligned, "pushf; orl $0x40000, (%rsp); popf", "mov -23(%rsp), %eax");
INSTRUCTION(bad_selector, "mov $0x18, %ecx", "mov %ecx, %ds");
INSTRUCTION(bad_stack_selector, "mov $0x18, %ecx", "mov %ecx, %ss");
INSTRUCTION(far_return, "pushq $0x10; push $0", "lretq");
INSTRUCTION(far_iret,
	    "mov %rsp, %rcx; pushq $0x18; push %rcx; pushq $2; pushq $0x10; push $0",
	    "iretq");
INSTRUCTION(wild_iret,
	    "mov %rsp, %rcx; mov %ss, %edx; push %rdx; push %rcx; pushf;"
	    "mov %cs, %edx; push %rdx; movabs " NOT_CANONICAL ", %rcx; push %rcx",
	    "iretq");
INSTRUCTION(sse_divide,
	    "pushq $0x1d80; ldmxcsr (%rsp); pop %rcx; xorps %xmm0, %xmm0;"
	    "mov $1, %ecx; cvtsi2sd %ecx, %xmm1",
	    "divsd %xmm0, %xmm1");
INSTRUCTION(sse_invalid, "pushq $0x1f00; ldmxcsr (%rsp); pop %rcx; xorps %xmm0, %xmm0",
	    "divsd %xmm0, %xmm0");
INSTRUCTION(x87_divide, "pushq $0x37b; fldcw (%rsp); pop %rcx; fld1; fldz; fdivrp",
	    "fwait");
/* Pending, while the kernel and other programs use the FPU. */
INSTRUCTION(x87_pending,
	    "pushq $0x37b; fldcw (%rsp); pop %rcx; fld1; fldz; fdivrp;"
	    "mov $24, %eax; syscall",
	    "fwait"); /* sched_yield */
INSTRUCTION(x87_invalid, "pushq $0x37e; fldcw (%rsp); pop %rcx; fldz; fldz; fdivp",
	    "fwait");

#define AT (-1)	 /* si_addr is the instruction's */
#define END (-2) /* ... the next one's */

/* `rip`: 0 at the instruction, 1 behind it; -1 anywhere. */
static const struct expected {
	const char *name;
	void (*run)(void);
	const char *at, *end;
	int signal, code;
	long address;
	int number;
	unsigned int error;
	int rip;
} expectations[] = {
#define ROW(name, ...) { #name, name, name##_at, name##_end, __VA_ARGS__ }
	ROW(undefined, SIGILL, ILL_ILLOPN, AT, UD, 0, 0),
	ROW(into, SIGILL, ILL_ILLOPN, AT, UD, 0, 0),
	ROW(bound, SIGILL, ILL_ILLOPN, AT, UD, 0, 0),
	ROW(lock_nop, SIGILL, ILL_ILLOPN, AT, UD, 0, 0),
	ROW(too_long, SIGSEGV, SI_KERNEL, 0, GP, 0, 0),
	ROW(divide_by_0, SIGFPE, FPE_INTDIV, AT, DE, 0, 0),
	ROW(quotient_too_big, SIGFPE, FPE_INTDIV, AT, DE, 0, 0),
	ROW(breakpoint, SIGTRAP, SI_KERNEL, 0, BP, 0, 1),
	ROW(breakpoint_by_number, SIGTRAP, SI_KERNEL, 0, BP, 0, 1),
	ROW(overflow, SIGSEGV, SI_KERNEL, 0, OF, 0, 1),
	ROW(icebp, SIGTRAP, TRAP_BRKPT, END, DB, 0, 1),
	ROW(step, SIGTRAP, TRAP_TRACE, END, DB, 0, 1),
	ROW(null_read, SIGSEGV, SEGV_MAPERR, 8, PF, PF_USER, 0),
	ROW(null_write, SIGSEGV, SEGV_MAPERR, 16, PF, PF_USER | PF_WRITE, 0),
	ROW(null_call, SIGSEGV, SEGV_MAPERR, 0, PF, PF_USER | PF_FETCH, -1),
	ROW(wild_read, SIGSEGV, SI_KERNEL, 0, GP, 0, 0),
	ROW(wild_stack, SIGBUS, SI_KERNEL, 0, SS, 0, 0),
	ROW(wild_jump, SIGSEGV, SI_KERNEL, 0, GP, 0, -1),
	ROW(wild_return, SIGSEGV, SI_KERNEL, 0, GP, 0, -1),
	ROW(misaligned_sse, SIGSEGV, SI_KERNEL, 0, GP, 0, 0),
	ROW(bad_selector, SIGSEGV, SI_KERNEL, 0, GP, 0x18, 0),
	ROW(bad_stack_selector, SIGSEGV, SI_KERNEL, 0, GP, 0x18, 0),
	ROW(far_return, SIGSEGV, SI_KERNEL, 0, GP, 0x10, 0),
	ROW(far_iret, SIGSEGV, SI_KERNEL, 0, GP, 0x10, 0),
	ROW(wild_iret, SIGSEGV, SI_KERNEL, 0, GP, 0, -1),
	ROW(sse_divide, SIGFPE, FPE_FLTDIV, AT, XM, 0, 0),
	ROW(sse_invalid, SIGFPE, FPE_FLTINV, AT, XM, 0, 0),
	ROW(x87_divide, SIGFPE, FPE_FLTDIV, AT, MF, 0, 0),
	ROW(x87_pending, SIGFPE, FPE_FLTDIV, AT, MF, 0, 0),
	ROW(x87_invalid, SIGFPE, FPE_FLTINV, AT, MF, 0, 0),
};

#define EXPECTATIONS (sizeof(expectations) / sizeof(expectations[0]))

static void check(const struct expected *row)
{
	struct trap is = trapped(row->run);
	struct trap was = {
		.signal = row->signal,
		.code = row->code,
		.address = row->address == AT	 ? (uint64_t)row->at
			   : row->address == END ? (uint64_t)row->end
						 : (uint64_t)row->address,
		.rip = row->rip == 1 ? (uint64_t)row->end : (uint64_t)row->at,
		.number = row->number,
		.error = row->error,
	};

	if (row->rip < 0)
		was.rip = is.rip;
	/* A trap; but a hypervisor of AMD's that takes #DB for itself gives it back so. */
	if (row->run == icebp && is.rip == (uint64_t)row->at)
		was.rip = was.address = is.rip;
	if ((is.error ^ was.error) == PF_FETCH)
		is.error = was.error; /* a CPU without NX */
	expect(is.signal == was.signal && is.code == was.code &&
		       is.address == was.address && is.rip == was.rip &&
		       is.number == was.number && is.error == was.error,
	       "%s: %s, not %s", row->name, trap_text(&is), trap_text(&was));
	expect(is.number != PF || is.cr2 == is.address, "%s: CR2 is %lx", row->name,
	       is.cr2);
}

/* #AC needs CR0.AM, which Linux sets; QEMU's TCG has none. */
static void check_alignment(void)
{
	struct trap is = trapped(misaligned);

	if (!is.signal)
		without("alignment checks", 0);
	else
		expect(is.signal == SIGBUS && is.code == BUS_ADRALN &&
			       is.number == AC && is.rip == (uint64_t)misaligned_at,
		       "misaligned: %s", trap_text(&is));
}

/* A step over an instruction that faults, and is made again: one trap, behind it. */
static unsigned char *fresh __attribute__((used));
INSTRUCTION(step_over_fault, "mov fresh(%rip), %rcx; pushf; orl $0x100, (%rsp); popf",
	    "movb $1, (%rcx)");

static void check_step_over_fault(void)
{
	struct trap is;

	fresh = map_pages(4096, PROT_READ | PROT_WRITE);
	is = trapped(step_over_fault);
	expect(is.signal == SIGTRAP && is.code == TRAP_TRACE &&
		       is.rip == (uint64_t)step_over_fault_end && *fresh == 1,
	       "a step over a page fault: %s", trap_text(&is));
	munmap(fresh, 4096);
}

static void (*across)(void);

static void call_across(void)
{
	across();
}

/* An instruction of which a part is in a page that isn't there. */
static void check_fetch_across_pages(void)
{
	static const unsigned char load[] = {
		0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xc3
	};
	unsigned char *pages = map_pages(8192, PROT_READ | PROT_WRITE | PROT_EXEC);
	uint64_t second = (uint64_t)pages + 4096;
	struct trap is;

	memcpy(pages + 4096 - 5, load, sizeof(load));
	munmap(pages + 4096, 4096);
	across = (void (*)(void))(pages + 4096 - 5);
	is = trapped(call_across);
	expect(is.signal == SIGSEGV && is.code == SEGV_MAPERR && is.address == second &&
		       is.rip == second - 5,
	       "an instruction across pages: %s", trap_text(&is));
	munmap(pages, 4096);
}

void run_traps(void)
{
	while (next()) {
		for (size_t i = 0; i < EXPECTATIONS; i++)
			check(&expectations[i]);
		check_alignment();
		check_fetch_across_pages();
		check_step_over_fault();
	}
}
