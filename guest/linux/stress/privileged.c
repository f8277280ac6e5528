/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Instructions that are the kernel's alone: #GP in a program. */
#include <signal.h>

#include "stress.h"
#include "trap.h"

INSTRUCTION(do_hlt, "", "hlt");
INSTRUCTION(do_cli, "", "cli");
INSTRUCTION(do_sti, "", "sti");
INSTRUCTION(do_clts, "", "clts");
INSTRUCTION(do_lmsw, "xor %eax, %eax", "lmsw %ax");
INSTRUCTION(do_rdmsr, "mov $0xc0000080, %ecx", "rdmsr");
INSTRUCTION(do_wrmsr, "mov $0xc0000080, %ecx; xor %eax, %eax; xor %edx, %edx", "wrmsr");
INSTRUCTION(do_rdpmc, "xor %ecx, %ecx", "rdpmc");
INSTRUCTION(do_read_cr0, "", "mov %cr0, %rax");
INSTRUCTION(do_read_cr2, "", "mov %cr2, %rax");
INSTRUCTION(do_read_cr3, "", "mov %cr3, %rax");
INSTRUCTION(do_read_cr4, "", "mov %cr4, %rax");
INSTRUCTION(do_read_cr8, "", "mov %cr8, %rax");
INSTRUCTION(do_write_cr0, "xor %eax, %eax", "mov %rax, %cr0");
INSTRUCTION(do_write_cr2, "xor %eax, %eax", "mov %rax, %cr2");
INSTRUCTION(do_write_cr3, "xor %eax, %eax", "mov %rax, %cr3");
INSTRUCTION(do_write_cr4, "xor %eax, %eax", "mov %rax, %cr4");
INSTRUCTION(do_write_cr8, "xor %eax, %eax", "mov %rax, %cr8");
INSTRUCTION(do_read_dr6, "", "mov %dr6, %rax");
INSTRUCTION(do_write_dr7, "xor %eax, %eax", "mov %rax, %dr7");
INSTRUCTION(do_invd, "", "invd");
INSTRUCTION(do_wbinvd, "", "wbinvd");
INSTRUCTION(do_invlpg, "", "invlpg (%rsp)");
INSTRUCTION(do_lgdt, "", "lgdt -32(%rsp)");
INSTRUCTION(do_lidt, "", "lidt -32(%rsp)");
INSTRUCTION(do_lldt, "xor %eax, %eax", "lldt %ax");
INSTRUCTION(do_ltr, "xor %eax, %eax", "ltr %ax");
INSTRUCTION(do_swapgs, "", "swapgs");
INSTRUCTION(do_sysret, "lea do_sysret_end(%rip), %rcx", "sysretq");
INSTRUCTION(do_xsetbv, "xor %ecx, %ecx; mov $1, %eax; xor %edx, %edx", "xsetbv");
INSTRUCTION(do_in8, "mov $0x64, %edx", "in %dx, %al");
INSTRUCTION(do_in32, "mov $0xcfc, %edx", "in %dx, %eax");
INSTRUCTION(do_in_number, "", "in $0x64, %al");
INSTRUCTION(do_out8, "mov $0x80, %edx", "out %al, %dx");
INSTRUCTION(do_out_number, "", "out %ax, $0x80");
INSTRUCTION(do_ins, "push %rdi; lea -32(%rsp), %rdi; mov $0x64, %edx; mov $1, %ecx",
	    "rep insb; pop %rdi");
INSTRUCTION(do_outs, "mov %rsi, %rax; mov %rsp, %rsi; mov $0x80, %edx",
	    "outsb; mov %rax, %rsi");
INSTRUCTION(do_stac, "", ".byte 0x0f, 0x01, 0xcb");
INSTRUCTION(do_clac, "", ".byte 0x0f, 0x01, 0xca");
INSTRUCTION(do_monitor, "mov %rsp, %rax; xor %ecx, %ecx; xor %edx, %edx", "monitor");
INSTRUCTION(do_mwait, "xor %eax, %eax; xor %ecx, %ecx", "mwait");
INSTRUCTION(do_sgdt, "", "sgdt -32(%rsp)");
INSTRUCTION(do_sidt, "", "sidt -32(%rsp)");
INSTRUCTION(do_sldt, "", "sldt %eax");
INSTRUCTION(do_str, "", "str %eax");
INSTRUCTION(do_smsw, "", "smsw %eax");

struct privileged {
	const char *name;
	void (*run)(void);
	const char *at;
};

#define ROW(name) { #name + 3, name, name##_at }

static const struct privileged refused[] = {
	ROW(do_hlt),
	ROW(do_cli),
	ROW(do_sti),
	ROW(do_clts),
	ROW(do_lmsw),
	ROW(do_rdmsr),
	ROW(do_wrmsr),
	ROW(do_read_cr0),
	ROW(do_read_cr2),
	ROW(do_read_cr3),
	ROW(do_read_cr4),
	ROW(do_read_cr8),
	ROW(do_write_cr0),
	ROW(do_write_cr2),
	ROW(do_write_cr3),
	ROW(do_write_cr4),
	ROW(do_write_cr8),
	ROW(do_read_dr6),
	ROW(do_write_dr7),
	ROW(do_invd),
	ROW(do_wbinvd),
	ROW(do_invlpg),
	ROW(do_lgdt),
	ROW(do_lidt),
	ROW(do_lldt),
	ROW(do_ltr),
	ROW(do_swapgs),
	ROW(do_sysret),
	ROW(do_xsetbv),
	ROW(do_in8),
	ROW(do_in32),
	ROW(do_in_number),
	ROW(do_out8),
	ROW(do_out_number),
	ROW(do_ins),
	ROW(do_outs),
	{ 0 },
};

/* #UD: the CPU has them not, or not for programs.  PVM makes the last two #GP. */
static const struct privileged undefined[] = {
	ROW(do_stac), ROW(do_clac), ROW(do_monitor), ROW(do_mwait), { 0 },
};

/* With UMIP Linux answers some; without, the CPU does.  Who has perf may read. */
static const struct privileged tolerated[] = {
	ROW(do_sgdt), ROW(do_sidt),  ROW(do_sldt), ROW(do_str),
	ROW(do_smsw), ROW(do_rdpmc), { 0 },
};

static bool is_at(const struct trap *trap, int vector, const struct privileged *row)
{
	return trap->number == (unsigned int)vector && trap->rip == (uint64_t)row->at &&
	       trap->signal == (vector == UD ? SIGILL : SIGSEGV);
}

static bool is_refused(const struct trap *trap, const struct privileged *row)
{
	return is_at(trap, GP, row) && trap->code == SI_KERNEL && trap->error == 0;
}

static bool is_undefined(const struct trap *trap, const struct privileged *row)
{
	return is_at(trap, UD, row) || is_at(trap, GP, row);
}

static bool is_tolerated(const struct trap *trap, const struct privileged *row)
{
	return !trap->signal || is_undefined(trap, row);
}

static void check(const struct privileged *rows,
		  bool (*is_right)(const struct trap *, const struct privileged *))
{
	for (; rows->name; rows++) {
		struct trap is = trapped(rows->run);

		expect(is_right(&is, rows), "%s: %s", rows->name, trap_text(&is));
	}
}

void run_privileged(void)
{
	while (next()) {
		check(refused, is_refused);
		check(undefined, is_undefined);
		check(tolerated, is_tolerated);
	}
}
