/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* System calls in ways that a C library doesn't make them. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "registers.h"
#include "stress.h"
#include "trap.h"

static const struct {
	const char *name;
	uint64_t flags;
} odd_flags[] = {
	{ "none", 0 },
	{ "DF", FLAG_DF },
	{ "AC", FLAG_AC },
	{ "ID", FLAG_ID },
	{ "NT", FLAG_NT },
	{ "all arithmetic ones", FLAGS_ARITHMETIC },
	{ "all", FLAG_DF | FLAG_AC | FLAG_ID | FLAG_NT | FLAGS_ARITHMETIC },
};

#define ODD_FLAGS (sizeof(odd_flags) / sizeof(odd_flags[0]))

/* The kernel's own code must not see these flags; the program has them afterwards. */
static void check_flags(void)
{
	static struct registers in, out;
	struct stat status;

	for (size_t i = 0; i < ODD_FLAGS; i++) {
		/* A call that copies, which DF would turn round. */
		struct stay stay = { .turns = 2, .call = SYS_fstat };

		fill(&in);
		in.flags = 2 | odd_flags[i].flags;
		in.general[RDI] = 0;
		in.general[RSI] = (uint64_t)&status;
		memset(&status, 0xff, sizeof(status));
		hold(SSE, &in, &out, &stay);
		/* Where KVM emulates iret, NT gets lost; nobody needs it. */
		if ((in.flags ^ out.flags) & FLAG_NT) {
			without("NT", 0);
			out.flags |= FLAG_NT;
		}
		same(SSE, &out, &in, true, odd_flags[i].name);
		expect(stay.result == 0 && status.st_nlink >= 1 &&
			       status.st_nlink < 1000,
		       "fstat with flags %s: %ld, %lu links", odd_flags[i].name,
		       stay.result, status.st_nlink);
	}
}

/* The same, with nothing that changes flags but interrupts and page faults. */
static void check_flags_over_interrupts(void)
{
	static struct registers in, out;
	char *pages = map_pages(4 * 4096, PROT_READ | PROT_WRITE);
	struct stay stay = {
		.turns = 4, .spins = 200000, .call = NO_CALL, .touch = pages
	};

	fill(&in);
	in.flags = 2 | odd_flags[random64() % ODD_FLAGS].flags;
	hold(SSE, &in, &out, &stay);
	if ((in.flags ^ out.flags) & FLAG_NT) {
		without("NT", 0);
		out.flags |= FLAG_NT;
	}
	same(SSE, &out, &in, false, "odd flags");
	munmap(pages, 4 * 4096);
}

/* Who interrupts, or is called, must not use a program's stack. */
static void check_wild_stack(uint64_t stack)
{
	long result = SYS_getppid;

	__asm__ volatile("mov %%rsp, %%r12\n\t"
			 "mov %[stack], %%rsp\n\t"
			 "syscall\n\t"
			 "mov $1000000, %%ecx\n"
			 "1:\tdec %%ecx\n\t"
			 "jnz 1b\n\t"
			 "mov %%r12, %%rsp"
			 : "+a"(result)
			 : [stack] "r"(stack)
			 : "rcx", "r11", "r12", "memory", "cc");
	expect(result == getppid(), "a call with RSP %lx: %ld", stack, result);
}

static void check_wild_stacks(void)
{
	check_wild_stack(0);
	check_wild_stack(4);
	check_wild_stack(1ul << 63);
	check_wild_stack(0xffffffff81000000);
	check_wild_stack(0xffff888000001000);
	check_wild_stack(-8);
}

/* With TF: the trap comes behind the call, or behind what follows if iret returned. */
INSTRUCTION(stepped_call, "mov $-1, %rax; pushf; orl $0x100, (%rsp); popf; syscall",
	    "nop");
/* NT makes the processor's iret a #GP, the kernel's as well, if it stays set. */
INSTRUCTION(nt_in_kernel,
	    "pushf; orl $0x4000, (%rsp); popf; mov $39, %eax; syscall;"
	    "xor %ecx, %ecx",
	    "mov (%rcx), %eax");

static void check_traps(void)
{
	struct trap is = trapped(stepped_call);

	expect(is.signal == SIGTRAP && is.code == TRAP_TRACE &&
		       (is.rip == (uint64_t)stepped_call_at ||
			is.rip == (uint64_t)stepped_call_end),
	       "TF over a call: %s", trap_text(&is));
	is = trapped(nt_in_kernel);
	expect(is.signal == SIGSEGV && is.number == PF &&
		       is.rip == (uint64_t)nt_in_kernel_at,
	       "NT over a call and a fault: %s", trap_text(&is));
}

static long raw(long number, long a, long b, long c)
{
	register long result __asm__("rax") = number;

	__asm__ volatile("syscall"
			 : "+r"(result)
			 : "D"(a), "S"(b), "d"(c)
			 : "rcx", "r11", "memory");
	return result;
}

static void check_numbers(void)
{
	static const long numbers[] = {
		-1,	    -2,		400,
		1000,	    0x40000000, 0x40000000 | SYS_getpid, /* x32's */
		0x7fffffff, 0x80000000, 0xffffffff80000000,
	};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		long result = raw(numbers[i], -1, -1, -1);

		expect(result == -ENOSYS, "call %lx: %ld", numbers[i], result);
	}
	/* The number is of 32 bits. */
	expect(raw(SYS_getpid | (long)1 << 32, 0, 0, 0) == getpid(),
	       "a number's upper half");
	for (int i = 0; i < 50; i++) {
		long number = 600 + random64() % 100000,
		     result = raw(number, -1, -1, -1);

		expect(result == -ENOSYS, "call %lx: %ld", number, result);
	}
}

void run_syscalls(void)
{
	while (next()) {
		check_flags();
		check_flags_over_interrupts();
		check_wild_stacks();
		check_traps();
		check_numbers();
	}
}

/* Addresses at which a program has nothing; the kernel's among them. */
static const uint64_t nowhere[] = {
	8,
	0x7ffffffff000, /* the last page of all programs */
	0x800000000000,
	0x8000000000000000,
	0xffff7fffffffffff,
	0xffff800000000000,
	0xffff888000000000, /* all of RAM */
	0xffffc90000000000,
	0xffffffff81000000, /* the kernel's code */
	0xffffffffff600000, /* vsyscall */
	0xfffffffffffff000,
	-8,
};

#define NOWHERE (sizeof(nowhere) / sizeof(nowhere[0]))

static int ends[2]; /* of a pipe */

static void check_pointer(uint64_t at)
{
	struct iovec vector = { (void *)at, 16 };
	long result = raw(SYS_write, ends[1], at, 16);

	expect(result == -EFAULT, "write from %lx: %ld", at, result);
	expect(raw(SYS_write, ends[1], (long)"12345678", 8) == 8, "write");
	result = raw(SYS_read, ends[0], at, 8);
	expect(result == -EFAULT, "read to %lx: %ld", at, result);
	/* What the failed one took is gone or isn't; empty the pipe. */
	char rest[64];
	raw(SYS_read, ends[0], (long)rest, sizeof(rest));
	result = raw(SYS_writev, ends[1], (long)&vector, 1);
	expect(result == -EFAULT, "writev from %lx: %ld", at, result);
	result = raw(SYS_open, at, O_RDONLY, 0);
	expect(result == -EFAULT, "open of %lx: %ld", at, result);
	result = raw(SYS_uname, at, 0, 0);
	expect(result == -EFAULT, "uname to %lx: %ld", at, result);
	result = raw(SYS_rt_sigaction, SIGUSR1, at, 0);
	expect(result == -EFAULT || result == -EINVAL, "sigaction of %lx: %ld", at,
	       result);
	result = raw(SYS_gettimeofday, at, 0, 0);
	expect(result == -EFAULT, "gettimeofday to %lx: %ld", at, result);
	result = raw(SYS_nanosleep, at, 0, 0);
	expect(result == -EFAULT, "nanosleep of %lx: %ld", at, result);
}

/* The kernel's own accesses: faults that it takes for the program. */
static void check_kernel_faults(void)
{
	unsigned char *pages = map_pages(3 * 4096, PROT_READ | PROT_WRITE);
	uint64_t seed = random64();
	long result;

	/* Fresh pages, which the kernel reads as zeros and writes first. */
	expect(raw(SYS_write, ends[1], (long)pages + 4096 - 8, 16) == 16,
	       "write of fresh pages");
	expect(raw(SYS_read, ends[0], (long)pages + 2 * 4096 - 8, 16) == 16,
	       "read to fresh pages");
	fill_bytes(pages, 2 * 4096, seed);
	/* Pages that are closed: as far as it goes, and then no further. */
	mprotect(pages + 4096, 4096, PROT_READ);
	expect(raw(SYS_write, ends[1], (long)pages + 4096 - 8, 16) == 16,
	       "write of both");
	memset(pages + 4096 - 8, 0, 8);
	result = raw(SYS_read, ends[0], (long)pages + 4096, 16);
	expect(result == -EFAULT, "read to what is read-only: %ld", result);
	mprotect(pages + 4096, 4096, PROT_NONE);
	result = raw(SYS_write, ends[1], (long)pages + 4096, 16);
	expect(result == -EFAULT, "write of what is closed: %ld", result);
	result = raw(SYS_uname, (long)pages + 4096 - 8, 0, 0);
	expect(result == -EFAULT, "uname to what is half closed: %ld", result);
	munmap(pages, 3 * 4096);
}

static void check_empty(void)
{
	char rest[256];

	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	while (raw(SYS_read, ends[0], (long)rest, sizeof(rest)) > 0)
		;
	fcntl(ends[0], F_SETFL, 0);
}

void run_pointers(void)
{
	if (pipe(ends))
		skip("pipe", errno);
	while (next()) {
		for (size_t i = 0; i < NOWHERE; i++)
			check_pointer(nowhere[i]);
		check_kernel_faults();
		check_empty();
	}
}
