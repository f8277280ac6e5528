/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* What is not for programs: interrupts by their numbers, and the kernel's memory. */
#include <signal.h>

#include "stress.h"
#include "trap.h"

/*
 * `int n`: only 3 and 4 are for programs, and 0x80 where there are i386 ones; any
 * other is #GP, whoever has the vector.  PVM makes most of them #UD, a few a #GP that
 * comes behind the instruction and without its error code, and some nothing at all.
 */
#define INT_SIZE 3

extern const char int_n[];
__asm__(".text\n"
	"int_n:\n"
	".set n, 0\n"
	".rept 256\n"
	"	.byte 0xcd, n\n"
	"	ret\n"
	".set n, n + 1\n"
	".endr\n");

static void check_interrupt(int n)
{
	uint64_t at = (uint64_t)int_n + INT_SIZE * n;
	struct trap is = trapped((void (*)(void))at);
	unsigned int error = is.error ? n * 8 + 2 : 0;

	if (!is.signal)
		return without("faults by some interrupts", 0);
	expect((is.rip == at || is.rip == at + 2) &&
		       ((is.signal == SIGSEGV && is.number == GP &&
			 is.error == error) ||
			(is.signal == SIGILL && is.number == UD)),
	       "int %d: %s", n, trap_text(&is));
}

void run_interrupts(void)
{
	while (next())
		for (int n = 0; n < 256; n++)
			if (n != BP && n != OF && n != 0x80)
				check_interrupt(n);
}

INSTRUCTION(kernel_read, "mov $0xffffffff81000000, %rcx", "mov (%rcx), %eax");
INSTRUCTION(kernel_write, "mov $0xffffffff81000000, %rcx", "mov %eax, (%rcx)");
INSTRUCTION(kernel_jump, "mov $0xffffffff81000000, %rcx", "jmp *%rcx");
INSTRUCTION(direct_map_read, "movabs $0xffff888000000000, %rcx", "mov (%rcx), %eax");

static void check_kernel(const char *name, void (*run)(void), uint64_t address)
{
	struct trap is = trapped(run);

	/* Whether something is there, a program isn't told: always not present. */
	expect(is.signal == SIGSEGV && is.code == SEGV_MAPERR &&
		       is.address == address && is.number == PF,
	       "%s: %s", name, trap_text(&is));
}

void run_kernel_addresses(void)
{
	while (next()) {
		check_kernel("read", kernel_read, 0xffffffff81000000);
		check_kernel("write", kernel_write, 0xffffffff81000000);
		check_kernel("jump", kernel_jump, 0xffffffff81000000);
		check_kernel("direct map", direct_map_read, 0xffff888000000000);
	}
}
