/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* ptrace: single steps, breakpoints in code and in debug registers, registers. */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "registers.h"
#include "stress.h"

extern const char traced[], traced_middle[], traced_store[], traced_stored[],
	traced_free[];
extern const uint64_t traced_rips[], traced_rips_end[];
extern uint64_t traced_word[2];

#define REGISTER(name) offsetof(struct user, regs.name)
#define DEBUG_REGISTER(n) offsetof(struct user, u_debugreg[n])

#define DR7_EXECUTE 0x1		    /* DR0 is on; one byte, execute */
#define DR7_WRITE (0x1 | 0xd << 16) /* ... four bytes, write */

static uint64_t peek(int pid, size_t what)
{
	errno = 0;
	uint64_t value = ptrace(PTRACE_PEEKUSER, pid, what, NULL);

	expect(!errno, "PEEKUSER %lu: errno %d", what, errno);
	return value;
}

static long poke(int pid, size_t what, uint64_t value)
{
	return ptrace(PTRACE_POKEUSER, pid, what, value) < 0 ? errno : 0;
}

static int wait_status(int pid)
{
	int status = 0;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR) {
			wrong("wait: errno %d", errno);
			break;
		}
	return status;
}

/* Whether it is a stop by `signal`; if it is none, the child is gone. */
static bool is_stop(int pid, int status, int signal, const char *when)
{
	if (WIFSTOPPED(status) && WSTOPSIG(status) == signal)
		return true;
	wrong("%s: status %x, not a stop by %d; RIP %lx", when, status, signal,
	      WIFSTOPPED(status) ? peek(pid, REGISTER(rip)) : 0);
	kill(pid, SIGKILL);
	if (WIFSTOPPED(status))
		waitpid(pid, &status, 0);
	return false;
}

static bool stopped(int pid, int signal, const char *when)
{
	return is_stop(pid, wait_status(pid), signal, when);
}

/* A child that stands at `traced`, or 0. */
static int start_traced(void)
{
	int pid = child();
	long error;

	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(100);
	}
	if (!stopped(pid, SIGSTOP, "a traced child"))
		return 0;
	error = poke(pid, REGISTER(rip), (uint64_t)traced);
	/* It stands in a system call, which must not be begun again. */
	error |= poke(pid, REGISTER(orig_rax), -1);
	if (!error)
		return pid;
	wrong("POKEUSER: errno %ld", error);
	kill(pid, SIGKILL);
	ended(pid);
	return 0;
}

static void resume(int how, int pid)
{
	expect(ptrace(how, pid, NULL, NULL) == 0, "resume by %d: errno %d", how, errno);
}

/* Let it run to its end, which tells whether a trap flag was left. */
static void finish(int pid, const char *what)
{
	int status;

	resume(PTRACE_CONT, pid);
	status = ended(pid);
	expect(status == 0, "%s: the child ended with %d", what, status);
}

static void check_siginfo(int pid, int code, uint64_t address, const char *what)
{
	siginfo_t info;

	memset(&info, 0, sizeof(info));
	expect(ptrace(PTRACE_GETSIGINFO, pid, NULL, &info) == 0, "siginfo: errno %d",
	       errno);
	expect(info.si_code == code && (uint64_t)info.si_addr == address,
	       "%s: code %d address %p, not %d %lx", what, info.si_code, info.si_addr,
	       code, address);
}

static void check_steps(void)
{
	int pid = start_traced();

	if (!pid)
		return;
	for (const uint64_t *rip = traced_rips; rip < traced_rips_end; rip++) {
		uint64_t at;

		resume(PTRACE_SINGLESTEP, pid);
		if (!stopped(pid, SIGTRAP, "a step"))
			return;
		at = peek(pid, REGISTER(rip));
		expect(at == *rip, "step %ld: at traced+%ld, not +%ld",
		       rip - traced_rips, at - (uint64_t)traced,
		       *rip - (uint64_t)traced);
	}
	finish(pid, "steps");
}

/* What a tracer sees and sets of the registers is what the child has. */
static void check_registers(void)
{
	struct user_regs_struct general;
	struct user_fpregs_struct fpu;
	int pid = start_traced();
	uint64_t word = random64();

	if (!pid)
		return;
	expect(ptrace(PTRACE_GETFPREGS, pid, NULL, &fpu) == 0, "GETFPREGS: errno %d",
	       errno);
	memcpy(fpu.xmm_space + 4 * 9, &word, 8);
	expect(ptrace(PTRACE_SETFPREGS, pid, NULL, &fpu) == 0, "SETFPREGS: errno %d",
	       errno);
	expect(ptrace(PTRACE_GETREGS, pid, NULL, &general) == 0, "GETREGS: errno %d",
	       errno);
	general.r14 = word;
	expect(ptrace(PTRACE_SETREGS, pid, NULL, &general) == 0, "SETREGS: errno %d",
	       errno);
	for (int i = 0; i < 3; i++) {
		resume(PTRACE_SINGLESTEP, pid);
		if (!stopped(pid, SIGTRAP, "a step"))
			return;
	}
	expect(ptrace(PTRACE_GETREGS, pid, NULL, &general) == 0, "GETREGS: errno %d",
	       errno);
	expect(general.r14 == word && general.rbx == 8 - 1 && general.rdx == 0 &&
		       general.cs == 0x33 && general.ss == 0x2b,
	       "registers: r14 %llx for %lx, rbx %llx, rdx %llx, cs %llx, ss %llx",
	       general.r14, word, general.rbx, general.rdx, general.cs, general.ss);
	expect(ptrace(PTRACE_GETFPREGS, pid, NULL, &fpu) == 0, "GETFPREGS: errno %d",
	       errno);
	expect(!memcmp(fpu.xmm_space + 4 * 9, &word, 8), "registers: xmm9");
	/* What the kernel could not load is refused. */
	expect(poke(pid, REGISTER(cs), 0x10) == EIO, "the kernel's CS is taken");
	expect(poke(pid, REGISTER(ss), 0x18) == EIO, "the kernel's SS is taken");
	expect(poke(pid, REGISTER(gs_base), 1ul << 63) == EIO,
	       "a wild GS base is taken");
	finish(pid, "registers");
}

void run_steps(void)
{
	while (next()) {
		check_steps();
		check_registers();
	}
}

static void check_int3(void)
{
	uint64_t at = (uint64_t)traced_middle, code;
	int pid = start_traced();

	if (!pid)
		return;
	errno = 0;
	code = ptrace(PTRACE_PEEKTEXT, pid, at, NULL);
	expect(!errno && !memcmp(&code, traced_middle, 8), "PEEKTEXT: errno %d", errno);
	expect(ptrace(PTRACE_POKETEXT, pid, at, (code & ~0xfful) | 0xcc) == 0,
	       "POKETEXT: errno %d", errno);
	resume(PTRACE_CONT, pid);
	if (!stopped(pid, SIGTRAP, "a breakpoint"))
		return;
	check_siginfo(pid, SI_KERNEL, 0, "a breakpoint");
	expect(peek(pid, REGISTER(rip)) == at + 1, "a breakpoint: traced+%ld, not +%ld",
	       peek(pid, REGISTER(rip)) - (uint64_t)traced, at + 1 - (uint64_t)traced);
	expect(peek(pid, REGISTER(rbx)) == 8, "a breakpoint: rbx %lx",
	       peek(pid, REGISTER(rbx)));
	ptrace(PTRACE_POKETEXT, pid, at, code);
	poke(pid, REGISTER(rip), at);
	finish(pid, "a breakpoint");
	expect(!memcmp(&code, traced_middle, 8),
	       "a breakpoint is in the tracer's code, too");
}

/* Run into debug register 0, which stops the child at `rip`. */
static void check_debug_register(const char *what, const void *address,
				 uint64_t control, const char *rip)
{
	int pid = start_traced(), status;
	long error;
	uint64_t at;

	if (!pid)
		return;
	error = poke(pid, DEBUG_REGISTER(0), (uint64_t)address);
	if (!error)
		error = poke(pid, DEBUG_REGISTER(7), control);
	if (error) {
		without("debug registers", error);
		return finish(pid, what);
	}
	resume(PTRACE_CONT, pid);
	status = wait_status(pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return without("debug registers that stop", 0); /* as on PVM */
	if (!is_stop(pid, status, SIGTRAP, what))
		return;
	at = peek(pid, REGISTER(rip));
	expect(at == (uint64_t)rip, "%s: traced+%ld, not +%ld", what,
	       at - (uint64_t)traced, rip - traced);
	check_siginfo(pid, TRAP_HWBKPT, at, what);
	expect((peek(pid, DEBUG_REGISTER(6)) & 0xf) == 1, "%s: DR6 is %lx", what,
	       peek(pid, DEBUG_REGISTER(6)));
	finish(pid, what);
}

/* System calls as a tracer sees them, before and after. */
static void check_traced_calls(void)
{
	static const long calls[] = { SYS_getppid, SYS_getppid, -1, -1,
				      SYS_exit_group };
	int pid = start_traced();

	if (!pid)
		return;
	for (int i = 0; i < 5; i++) {
		long call;

		resume(PTRACE_SYSCALL, pid);
		if (!stopped(pid, SIGTRAP, "a traced call"))
			return;
		call = peek(pid, REGISTER(orig_rax));
		expect(call == calls[i], "stop %d is at call %ld, not %ld", i, call,
		       calls[i]);
	}
	finish(pid, "traced calls");
}

void run_breakpoints(void)
{
	while (next()) {
		check_int3();
		check_debug_register("an execution", traced_middle, DR7_EXECUTE,
				     traced_middle);
		check_debug_register("a write", traced_word, DR7_WRITE, traced_stored);
		check_traced_calls();
	}
}
