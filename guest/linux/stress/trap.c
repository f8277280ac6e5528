/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Catches traps: see trap.h. */
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "stress.h"
#include "trap.h"

static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };

#define SIGNALS (sizeof(signals) / sizeof(signals[0]))

static sigjmp_buf back;
static struct trap caught;
static unsigned char stack[65536] __attribute__((aligned(16)));

static void handler(int number, siginfo_t *info, void *context)
{
	const greg_t *general = ((ucontext_t *)context)->uc_mcontext.gregs;

	caught = (struct trap){
		.signal = number,
		.code = info->si_code,
		.address = (uint64_t)info->si_addr,
		.rip = general[REG_RIP],
		.flags = general[REG_EFL],
		.cr2 = general[REG_CR2],
		.number = general[REG_TRAPNO],
		.error = general[REG_ERR],
	};
	siglongjmp(back, 1);
}

/* On a stack of its own: the program's may be what is wrong. */
static void listen(void)
{
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_sigaction = handler,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK };
	static bool listening;

	if (listening)
		return;
	sigaltstack(&alternate, NULL);
	for (size_t i = 0; i < SIGNALS; i++)
		sigaction(signals[i], &action, NULL);
	listening = true;
}

struct trap trapped(void (*run)(void))
{
	listen();
	memset(&caught, 0, sizeof(caught));
	if (!sigsetjmp(back, 1))
		run();
	/* Flags that the program may have set: the handler didn't return. */
	__asm__ volatile("sub $128, %%rsp; pushq $2; popf; add $128, %%rsp"
			 :
			 :
			 : "cc", "memory");
	return caught;
}

const char *trap_text(const struct trap *trap)
{
	static char texts[3][160];
	static int turn;
	char *text = texts[turn = (turn + 1) % 3];

	if (!trap->signal)
		return "no signal";
	snprintf(text, sizeof(texts[0]),
		 "%s code %d addr %lx rip %lx vector %u error %x",
		 sigabbrev_np(trap->signal), trap->code, trap->address, trap->rip,
		 trap->number, trap->error);
	return text;
}
