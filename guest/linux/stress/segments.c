/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * FS and GS: bases and selectors, which each program has for itself.  This one's FS
 * is the C library's, so it is changed only where nobody needs it.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stress.h"
#include "trap.h"

#define HWCAP2_FSGSBASE 2

static bool by_instruction; /* wrgsbase and the like work */
static uint64_t words[2];   /* what a base points to */

static long arch_prctl(int code, uint64_t value)
{
	return syscall(SYS_arch_prctl, code, value) < 0 ? errno : 0;
}

static uint64_t gs_base(void)
{
	uint64_t base = 0;

	expect(arch_prctl(ARCH_GET_GS, (uint64_t)&base) == 0, "ARCH_GET_GS: errno %d",
	       errno);
	return base;
}

static uint64_t at_gs(void)
{
	uint64_t word;

	__asm__ volatile("mov %%gs:0, %0" : "=r"(word));
	return word;
}

static uint64_t rdgsbase(void)
{
	uint64_t base;

	__asm__ volatile("rdgsbase %0" : "=r"(base));
	return base;
}

static unsigned int gs(void)
{
	unsigned int selector;

	__asm__ volatile("mov %%gs, %0" : "=r"(selector));
	return selector;
}

/* Let others run, at times until the tick. */
static void pass_time(void)
{
	if (random64() % 8)
		sched_yield();
	else
		for (volatile int i = 0; i < 3000000; i++)
			;
}

static void check_gs_is(uint64_t base, unsigned int selector, const char *how)
{
	for (int i = 0; i < 4; i++) {
		expect(gs_base() == base, "%s: GS base %lx, not %lx", how, gs_base(),
		       base);
		expect(!by_instruction || rdgsbase() == base,
		       "%s: rdgsbase %lx, not %lx", how, rdgsbase(), base);
		expect(gs() == selector, "%s: GS %x, not %x", how, gs(), selector);
		pass_time();
	}
}

/* Where there is something, what is there counts. */
static void check_gs_at(uint64_t *word, const char *how)
{
	*word = random64();
	for (int i = 0; i < 4; i++) {
		expect(at_gs() == *word, "%s: at GS is %lx, not %lx", how, at_gs(),
		       *word);
		pass_time();
	}
	check_gs_is((uint64_t)word, 0, how);
}

static void check_gs_base(void)
{
	uint64_t nothing = random64() >> 17; /* a canonical address */

	expect(arch_prctl(ARCH_SET_GS, (uint64_t)&words[0]) == 0,
	       "ARCH_SET_GS: errno %d", errno);
	check_gs_at(&words[0], "ARCH_SET_GS");
	expect(arch_prctl(ARCH_SET_GS, nothing) == 0, "ARCH_SET_GS: errno %d", errno);
	check_gs_is(nothing, 0, "ARCH_SET_GS of nothing");
	expect(arch_prctl(ARCH_SET_GS, 1ul << 63) == EPERM, "a wild GS base is taken");
	expect(arch_prctl(ARCH_SET_FS, 1ul << 63) == EPERM, "a wild FS base is taken");
	check_gs_is(nothing, 0, "after a refusal");
	if (!by_instruction)
		return;
	__asm__ volatile("wrgsbase %0" : : "r"(&words[1]));
	check_gs_at(&words[1], "wrgsbase");
	/* The kernel's half is no business of its, but a base like any other. */
	__asm__ volatile("wrgsbase %0" : : "r"(0xffffffff81000000));
	check_gs_is(0xffffffff81000000, 0, "wrgsbase of the kernel's address");
}

/* A selector brings its segment's base, which is 0; and null keeps it or clears it. */
static void check_gs_selector(void)
{
	__asm__ volatile("mov %0, %%gs" : : "r"(0x2b));
	check_gs_is(0, 0x2b, "a selector in GS");
	__asm__ volatile("mov %0, %%gs" : : "r"(0));
	expect(arch_prctl(ARCH_SET_GS, (uint64_t)&words[0]) == 0,
	       "ARCH_SET_GS: errno %d", errno);
	check_gs_at(&words[0], "ARCH_SET_GS behind a selector");
}

/* FS elsewhere, over a switch to others and back; no C in between. */
static void check_fs_base(void)
{
	uint64_t base = random64() >> 17, before = 0, after = 0, restored = 0;
	long set = -1;

	expect(arch_prctl(ARCH_GET_FS, (uint64_t)&before) == 0, "ARCH_GET_FS: errno %d",
	       errno);
	__asm__ volatile(
		"mov %[base], %%rsi; mov %[set_fs], %%edi; mov %[nr], %%eax; "
		"syscall\n\t"
		"mov %%rax, %[set]\n\t"
		"mov %[yield], %%eax; syscall\n\t"
		"mov $3000000, %%ecx\n1:\tdec %%ecx; jnz 1b\n\t"
		"mov %[yield], %%eax; syscall\n\t"
		"lea %[after], %%rsi; mov %[get_fs], %%edi; mov %[nr], %%eax; "
		"syscall\n\t"
		"mov %[before], %%rsi; mov %[set_fs], %%edi; mov %[nr], %%eax; syscall"
		: [set] "+m"(set), [after] "+m"(after)
		: [base] "m"(base), [before] "m"(before), [nr] "i"(SYS_arch_prctl),
		  [yield] "i"(SYS_sched_yield), [set_fs] "i"(ARCH_SET_FS),
		  [get_fs] "i"(ARCH_GET_FS)
		: "rax", "rcx", "rdi", "rsi", "r11", "memory", "cc");
	expect(set == 0 && after == base, "ARCH_SET_FS: %ld; FS base %lx, not %lx", set,
	       after, base);
	arch_prctl(ARCH_GET_FS, (uint64_t)&restored);
	expect(restored == before, "FS base %lx, not %lx as before", restored, before);
}

INSTRUCTION(wild_gs_base, "movabs $0x8000000000000000, %rax", "wrgsbase %rax");
INSTRUCTION(absent_gs, "mov $0xffff, %eax", "mov %eax, %gs");
INSTRUCTION(kernel_gs, "mov $0x18, %eax", "mov %eax, %gs");

static void check_refusals(void)
{
	struct trap is = trapped(absent_gs);

	expect(is.signal == SIGSEGV && is.number == GP && is.error == 0xfffc,
	       "an absent GS: %s", trap_text(&is));
	is = trapped(kernel_gs);
	expect(is.signal == SIGSEGV && is.number == GP && is.error == 0x18,
	       "the kernel's GS: %s", trap_text(&is));
	if (!by_instruction)
		return;
	is = trapped(wild_gs_base);
	expect(is.signal == SIGSEGV && is.number == GP &&
		       is.rip == (uint64_t)wild_gs_base_at,
	       "a wild GS base: %s", trap_text(&is));
}

/* A child starts with its parent's. */
static void check_child(void)
{
	uint64_t base = gs_base();
	int pid = child();

	if (pid == 0) {
		check_gs_is(base, 0, "a child's");
		_exit(0);
	}
	expect(ended(pid) == 0, "the child failed");
}

void run_segments(void)
{
	by_instruction = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE;
	if (!by_instruction)
		without("FSGSBASE", 0);
	while (next()) {
		check_gs_base();
		check_gs_selector();
		check_fs_base();
		check_refusals();
		check_child();
	}
}
