/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Signals that interrupt known values in all registers.  The handlers use the same
 * registers for values of their own, on another stack, and are interrupted, too.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "registers.h"
#include "stress.h"

/* Frames with AVX-512's state take 3 KiB, ours 5, several deep. */
#define STACK_SIZE (256 * 1024)

static unsigned char stack[STACK_SIZE] __attribute__((aligned(16)));
static enum vectors vectors;
static struct registers held; /* by the program while `holding` */
static volatile sig_atomic_t counts[65], depth;
static siginfo_t last; /* of SIGUSR1 or SIGRTMIN */

static bool on_stack(const void *at)
{
	return (const unsigned char *)at >= stack &&
	       (const unsigned char *)at < stack + STACK_SIZE;
}

/* A handler starts with a clean FPU, whatever was in it. */
static void check_clean_fpu(void)
{
	unsigned short control, status;
	unsigned int mxcsr;

	__asm__ volatile("fnstcw %0\n\tfnstsw %1\n\tstmxcsr %2"
			 : "=m"(control), "=m"(status), "=m"(mxcsr));
	expect(control == 0x37f && status == 0 && mxcsr == 0x1f80,
	       "a handler starts with control word %x, status %x, mxcsr %x", control,
	       status, mxcsr);
}

/* What the handler is shown of the interrupted program. */
static void check_context(const ucontext_t *context, int number)
{
	const greg_t *general = context->uc_mcontext.gregs;
	const struct _libc_fpstate *fpu = context->uc_mcontext.fpregs;

	if (!held_at(general[REG_RIP]))
		return;
	expect((uint64_t)general[REG_RBX] == held.general[RBX] &&
		       (uint64_t)general[REG_R12] == held.general[R12] &&
		       (uint64_t)general[REG_RDI] == held.general[RDI],
	       "signal %d's context: rbx %llx r12 %llx rdi %llx", number,
	       general[REG_RBX], general[REG_R12], general[REG_RDI]);
	expect(fpu->mxcsr == held.mxcsr && fpu->cwd == held.control,
	       "signal %d's context: mxcsr %x control word %x", number, fpu->mxcsr,
	       fpu->cwd);
	for (int i = 0; i < 16; i++)
		expect(!memcmp(&fpu->_xmm[i], held.vectors[i], 16),
		       "signal %d's context: xmm%d", number, i);
}

static void handler(int number, siginfo_t *info, void *context)
{
	struct registers in, out;
	struct stay stay = { .turns = 2, .spins = 100, .call = SYS_sched_yield };

	check_clean_fpu();
	expect(on_stack(&in), "signal %d's handler is on another stack", number);
	if (depth == 0)
		check_context(context, number);
	depth++;
	counts[number]++;
	if (number == SIGUSR1 || number == SIGRTMIN)
		last = *info;
	if (number == SIGUSR1)
		raise(SIGUSR2);
	fill(&in);
	hold(vectors, &in, &out, &stay);
	same(vectors, &out, &in, true, "in a handler");
	depth--;
}

static void listen(void)
{
	const int numbers[] = {
		SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGRTMIN
	};
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_sigaction = handler,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART };

	sigaltstack(&alternate, NULL);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaction(numbers[i], &action, NULL);
}

/* A program that spins, interrupted by a timer of each kind. */
static void interrupt_by_timers(void)
{
	static const int timers[] = { ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF };
	struct itimerval soon = { { 0, 0 }, { 0, 1000 } },
			 never = { { 0, 0 }, { 0, 0 } };
	struct stay stay = { .turns = 1, .spins = 4000000, .call = NO_CALL };
	struct registers out;

	fill(&held);
	for (int i = 0; i < 3; i++)
		setitimer(timers[i], &soon, NULL);
	hold(vectors, &held, &out, &stay);
	same(vectors, &out, &held, false, "timers' signals");
	for (int i = 0; i < 3; i++)
		setitimer(timers[i], &never, NULL);
}

/* A call that sends the process a signal, which comes before it returns. */
static void interrupt_by_kill(void)
{
	struct stay stay = { .turns = 3, .call = SYS_tgkill };
	int before = counts[SIGUSR1], nested = counts[SIGUSR2];
	struct registers out;

	fill(&held);
	held.general[RDI] = getpid();
	held.general[RSI] = gettid();
	held.general[RDX] = SIGUSR1;
	hold(vectors, &held, &out, &stay);
	same(vectors, &out, &held, true, "tgkill");
	expect(stay.result == 0, "tgkill: %ld", stay.result);
	expect(counts[SIGUSR1] == before + 3 && counts[SIGUSR2] == nested + 3,
	       "of 3 signals in 3 came %d in %d", counts[SIGUSR2] - nested,
	       counts[SIGUSR1] - before);
	expect(last.si_code == SI_TKILL && last.si_pid == getpid(),
	       "tgkill: code %d of %d", last.si_code, last.si_pid);
}

/* Queued signals come once each, with their values, in order. */
static void interrupt_by_queue(void)
{
	int before = counts[SIGRTMIN];
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (int i = 1; i <= 4; i++)
		expect(sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i }) ==
			       0,
		       "sigqueue: errno %d", errno);
	expect(counts[SIGRTMIN] == before, "a blocked signal came");
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	expect(counts[SIGRTMIN] == before + 4, "of 4 queued signals came %d",
	       counts[SIGRTMIN] - before);
	expect(last.si_code == SI_QUEUE && last.si_value.sival_int == 4,
	       "sigqueue: the last has code %d, value %d", last.si_code,
	       last.si_value.sival_int);
}

void run_signals(void)
{
	vectors = have(AVX512) ? AVX512 : have(AVX) ? AVX : SSE;
	listen();
	while (next()) {
		interrupt_by_timers();
		interrupt_by_kill();
		interrupt_by_queue();
		/* Those of the CPUs before. */
		vectors = vectors == SSE ? (have(AVX512) ? AVX512
					    : have(AVX)	 ? AVX
							 : SSE)
					 : vectors - 1;
	}
	tell("%d alarms", counts[SIGALRM] + counts[SIGVTALRM] + counts[SIGPROF]);
}
