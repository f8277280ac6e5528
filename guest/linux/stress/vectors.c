/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Registers over preemption, system calls, page faults and fork.
 *
 * All of them hold x87's registers, too.
 */
#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "registers.h"
#include "stress.h"
#include "trap.h"

#define PAGES 16

static struct registers in, out;

/* Long enough for ticks to come in between; other workers run then. */
static struct stay spin(void)
{
	return (struct stay){ .turns = 3, .spins = 1000000, .call = NO_CALL };
}

/* Each call lets another worker run. */
static struct stay yield(void)
{
	return (struct stay){ .turns = 20, .spins = 100, .call = SYS_sched_yield };
}

static struct stay call(void)
{
	return (struct stay){ .turns = 50, .call = SYS_getppid };
}

static struct stay call_nothing(void)
{
	return (struct stay){ .turns = 50, .call = -1 };
}

/* The first write to each page is a fault. */
static struct stay touch(void)
{
	char *pages = map_pages(PAGES * 4096, PROT_READ | PROT_WRITE);

	return (struct stay){ .turns = PAGES, .call = NO_CALL, .touch = pages };
}

/* The child has its parent's registers; it tells itself if it hasn't. */
static void hold_over_fork(enum vectors vectors)
{
	struct stay stay = { .turns = 1, .call = SYS_fork };

	fill(&in);
	hold(vectors, &in, &out, &stay);
	same(vectors, &out, &in, true, stay.result ? "fork" : "in a child");
	if (stay.result == 0)
		_exit(0);
	if (stay.result < 0)
		wrong("fork: %ld", stay.result);
	else
		expect(ended(stay.result) == 0, "the child failed");
}

static void hold_over(enum vectors vectors, struct stay stay, long result,
		      const char *what)
{
	fill(&in);
	hold(vectors, &in, &out, &stay);
	same(vectors, &out, &in, stay.call != NO_CALL, what);
	if (stay.call == NO_CALL)
		return;
	expect(stay.result == result, "%s: result %ld, not %ld", what, stay.result,
	       result);
	/* What `syscall` does, and `sysret` or `iret` has to keep. */
	expect(behind_call(stay.returned), "%s: RCX is %lx", what, stay.returned);
	expect(out.general[R11] == (in.flags | FLAG_IF),
	       "%s: R11 is %lx, flags were %lx", what, out.general[R11], in.flags);
}

static void hold_in_turn(enum vectors vectors)
{
	while (next()) {
		struct stay touching = touch();

		hold_over(vectors, spin(), 0, "spin");
		hold_over(vectors, yield(), 0, "sched_yield");
		hold_over(vectors, call(), getppid(), "getppid");
		hold_over(vectors, call_nothing(), -ENOSYS, "no call");
		hold_over(vectors, touching, 0, "page faults");
		munmap(touching.touch, PAGES * 4096);
		hold_over_fork(vectors);
	}
}

void run_sse(void)
{
	hold_in_turn(SSE);
}

void run_avx(void)
{
	if (!have(AVX))
		skip("this CPU has no AVX", 0);
	hold_in_turn(AVX);
}

INSTRUCTION(use_avx, "", "vpxor %ymm0, %ymm0, %ymm0; vzeroupper");

/* As one that doesn't ask whether the kernel knows AVX: CPUID has a bit for that. */
void run_avx_anyway(void)
{
	if (trapped(use_avx).signal)
		skip("this CPU has no AVX", 0);
	hold_in_turn(AVX);
}

void run_avx512(void)
{
	if (!have(AVX512))
		skip("this CPU has no AVX-512", 0);
	hold_in_turn(AVX512);
}
