/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Handlers that change what they return to.  The kernel loads whatever it gets into
 * the registers: what can't be loaded is the program's SIGSEGV and never an oops.
 */
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "registers.h"
#include "stress.h"
#include "trap.h"

#define NOT_CANONICAL 0x8000000000000000

static void (*change)(ucontext_t *context);
static uint64_t flags_after;

INSTRUCTION(one_more, "", "nop");

static void to_wild_rip(ucontext_t *context)
{
	context->uc_mcontext.gregs[REG_RIP] = NOT_CANONICAL;
}

static void to_wild_rip_and_rcx(ucontext_t *context)
{
	/* As behind `syscall`, so that sysret would do. */
	context->uc_mcontext.gregs[REG_RIP] = NOT_CANONICAL;
	context->uc_mcontext.gregs[REG_RCX] = NOT_CANONICAL;
	context->uc_mcontext.gregs[REG_R11] = context->uc_mcontext.gregs[REG_EFL];
}

static void to_end_of_user_space(ucontext_t *context)
{
	context->uc_mcontext.gregs[REG_RIP] = 0x7fffffffffff;
}

static void to_wild_stack(ucontext_t *context)
{
	context->uc_mcontext.gregs[REG_RSP] = NOT_CANONICAL;
}

/* Of REG_CSGSFS the low 16 bits are CS, the high ones SS. */
static void set_selectors(ucontext_t *context, uint64_t cs, uint64_t ss)
{
	context->uc_mcontext.gregs[REG_CSGSFS] = cs | ss << 48;
}

static void to_kernel_cs(ucontext_t *context)
{
	set_selectors(context, 0x10, 0x2b);
}

static void to_null_cs(ucontext_t *context)
{
	set_selectors(context, 0, 0x2b);
}

static void to_data_cs(ucontext_t *context)
{
	set_selectors(context, 0x2b, 0x2b);
}

static void to_kernel_ss(ucontext_t *context)
{
	set_selectors(context, 0x33, 0x18);
}

static void to_null_ss(ucontext_t *context)
{
	set_selectors(context, 0x33, 0);
}

static void to_absent_ss(ucontext_t *context)
{
	set_selectors(context, 0x33, 0xfff3);
}

static void to_step(ucontext_t *context)
{
	context->uc_mcontext.gregs[REG_RIP] = (greg_t)one_more_at;
	context->uc_mcontext.gregs[REG_EFL] |= FLAG_TF;
}

static void to_bad_mxcsr(ucontext_t *context)
{
	context->uc_mcontext.fpregs->mxcsr = 0xffffffff;
}

static void to_wild_fpu(ucontext_t *context)
{
	context->uc_mcontext.fpregs = (void *)NOT_CANONICAL;
}

static void to_absent_fpu(ucontext_t *context)
{
	context->uc_mcontext.fpregs = (void *)4096;
}

/* In XSAVE's header, behind 520 bytes: what has to be 0. */
static void to_bad_header(ucontext_t *context)
{
	memset((char *)context->uc_mcontext.fpregs + 520, 0xff, 56);
}

static void change_context(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)info;
	change(context);
}

static void raise_it(void)
{
	syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1);
	__asm__ volatile("sub $128, %%rsp; pushf; pop %0; add $128, %%rsp"
			 : "=r"(flags_after)
			 :
			 : "memory", "cc");
}

struct row {
	const char *name;
	void (*change)(ucontext_t *context);
	int signal, code;
	int number; /* the vector; -1: whichever */
};

static const struct row rows[] = {
	{ "RIP not canonical", to_wild_rip, SIGSEGV, SI_KERNEL, GP },
	{ "RIP and RCX not canonical", to_wild_rip_and_rcx, SIGSEGV, SI_KERNEL, GP },
	{ "RIP in the last page", to_end_of_user_space, SIGSEGV, SEGV_MAPERR, PF },
	{ "RSP not canonical", to_wild_stack, SIGBUS, SI_KERNEL, SS },
	{ "the kernel's CS", to_kernel_cs, SIGSEGV, SI_KERNEL, GP },
	{ "no CS", to_null_cs, SIGSEGV, SI_KERNEL, GP },
	{ "CS of data", to_data_cs, SIGSEGV, SI_KERNEL, GP },
	{ "the kernel's SS", to_kernel_ss, SIGSEGV, SI_KERNEL, GP },
	{ "no SS", to_null_ss, SIGSEGV, SI_KERNEL, GP },
	{ "an absent SS", to_absent_ss, SIGSEGV, SI_KERNEL, GP },
	{ "TF", to_step, SIGTRAP, TRAP_TRACE, DB },
	/* The frame is refused, before anything is loaded. */
	{ "MXCSR's reserved bits", to_bad_mxcsr, SIGSEGV, SI_KERNEL, -1 },
	{ "FPU's state not canonical", to_wild_fpu, SIGSEGV, SI_KERNEL, -1 },
	{ "FPU's state absent", to_absent_fpu, SIGSEGV, SI_KERNEL, -1 },
};

/* Without XSAVE there is no header, and nobody looks. */
static const struct row xsave_rows[] = {
	{ "XSAVE's bad header", to_bad_header, SIGSEGV, SI_KERNEL, -1 },
};

static void check(const struct row *row)
{
	struct trap is;

	change = row->change;
	is = trapped(raise_it);
	expect(is.signal == row->signal && is.code == row->code &&
		       (row->number < 0 || is.number == (unsigned int)row->number),
	       "%s: %s", row->name, trap_text(&is));
}

/* Bits that a program may not set are left as they are. */
static void to_forbidden_flags(ucontext_t *context)
{
	/* IOPL NT VM VIF VIP, and IF off */
	context->uc_mcontext.gregs[REG_EFL] |= 0x1a7000;
	context->uc_mcontext.gregs[REG_EFL] &= ~FLAG_IF;
}

static void check_forbidden_flags(void)
{
	struct trap is;

	change = to_forbidden_flags;
	is = trapped(raise_it);
	expect(!is.signal, "forbidden flags: %s", trap_text(&is));
	expect((flags_after & 0x1a7200) == FLAG_IF, "forbidden flags: they are %lx",
	       flags_after);
}

static bool kernel_has_xsave;

static void look_for_xsave(ucontext_t *context)
{
	uint32_t size;

	/* xstate_size in what fxsave leaves to software: asm/sigcontext.h. */
	memcpy(&size, (char *)context->uc_mcontext.fpregs + 480, sizeof(size));
	kernel_has_xsave = size > 512;
}

/* The frame's AVX state is what comes back, also where it was changed. */
static struct registers in, out, changed;

static void change_registers(ucontext_t *context)
{
	if (!held_at(context->uc_mcontext.gregs[REG_RIP]))
		return;
	changed = in;
	changed.general[R13] = context->uc_mcontext.gregs[REG_R13] = 0x1122334455667788;
	changed.general[RBX] = context->uc_mcontext.gregs[REG_RBX] = -1;
	memset(changed.vectors[5], 0x5a, 16);
	memset(&context->uc_mcontext.fpregs->_xmm[5], 0x5a, 16);
	memset(&context->uc_mcontext.fpregs->_st[3], 0xa5, 8);
	memset(changed.x87[3], 0xa5, 8);
}

static void check_changed_registers(void)
{
	struct stay stay = { .turns = 1, .call = SYS_tgkill };
	enum vectors vectors = have(AVX512) ? AVX512 : have(AVX) ? AVX : SSE;

	change = change_registers;
	fill(&in);
	in.general[RDI] = getpid();
	in.general[RSI] = gettid();
	in.general[RDX] = SIGUSR1;
	hold(vectors, &in, &out, &stay);
	same(vectors, &out, &changed, true, "changed by a handler");
}

/* Where a frame has no place, the program is killed. */
static void die_on_a_bad_stack(void)
{
	stack_t none = { .ss_flags = SS_DISABLE };

	sigaltstack(&none, NULL);
	__asm__ volatile("mov %0, %%rsp\n\tsyscall"
			 :
			 : "r"(NOT_CANONICAL), "a"((long)SYS_tgkill),
			   "D"((long)getpid()), "S"((long)gettid()), "d"((long)SIGUSR1)
			 : "rcx", "r11", "memory");
	_exit(1);
}

static void check_bad_stack(void)
{
	int pid = child();

	if (pid == 0)
		die_on_a_bad_stack();
	pid = ended(pid);
	expect(pid == -SIGSEGV, "a signal without a stack: %d", pid);
}

void run_sigreturn(void)
{
	struct sigaction action = { .sa_sigaction = change_context,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK };

	sigaction(SIGUSR1, &action, NULL);
	change = look_for_xsave;
	raise_it();
	while (next()) {
		for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
			check(&rows[i]);
		if (kernel_has_xsave)
			check(&xsave_rows[0]);
		check_forbidden_flags();
		check_changed_registers();
		check_bad_stack();
	}
}
