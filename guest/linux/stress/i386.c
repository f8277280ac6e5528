/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Programs of 32 bits, which our kernels have no support for: refused, and no more. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "stress.h"
#include "trap.h"

/* getpid, as i386 numbers it. */
INSTRUCTION(int_80, "mov $20, %eax", "int $0x80");

/* i386's way into the kernel, whose end has the return address in EBP's memory. */
INSTRUCTION(enter, "mov $20, %eax; xor %ebp, %ebp", "sysenter");

static long result;

static void call_int_80(void)
{
	int_80();
	__asm__ volatile("" : "=a"(result));
}

static void check_int_80(void)
{
	struct trap is = trapped(call_int_80);

	if (!is.signal)
		return; /* a kernel with IA32_EMULATION */
	/* No gate for programs is #GP.  On PVM it is #UD. */
	expect((is.signal == SIGSEGV && is.number == GP && is.error == 0x402) ||
		       (is.signal == SIGILL && is.number == UD),
	       "int $0x80: %s", trap_text(&is));
	expect(is.rip == (uint64_t)int_80_at, "int $0x80: %s", trap_text(&is));
}

/* AMD's CPUs have it not for 64-bit programs; from Intel's nobody can come back. */
static void check_sysenter(void)
{
	struct trap is = trapped(enter);

	expect(is.signal == SIGSEGV || is.signal == SIGILL, "sysenter: %s",
	       trap_text(&is));
}

/* The smallest program there is: mov $1, %eax; mov $77, %ebx; int $0x80. */
static bool write_program(const char *path)
{
	static const unsigned char code[] = { 0xb8, 1, 0, 0, 0,	   0xbb,
					      77,   0, 0, 0, 0xcd, 0x80 };
	struct {
		Elf32_Ehdr header;
		Elf32_Phdr segment;
		unsigned char code[sizeof(code)];
	} image = {
		.header = {
			.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC,
			.e_machine = EM_386,
			.e_version = EV_CURRENT,
			.e_entry = 0x08048000 + sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr),
			.e_phoff = sizeof(Elf32_Ehdr),
			.e_ehsize = sizeof(Elf32_Ehdr),
			.e_phentsize = sizeof(Elf32_Phdr),
			.e_phnum = 1,
		},
		.segment = {
			.p_type = PT_LOAD,
			.p_vaddr = 0x08048000,
			.p_filesz = sizeof(image),
			.p_memsz = sizeof(image),
			.p_flags = PF_R | PF_X,
			.p_align = 4096,
		},
	};
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0700);
	bool written;

	memcpy(image.code, code, sizeof(code));
	written = fd >= 0 && write(fd, &image, sizeof(image)) == sizeof(image);
	close(fd);
	return written;
}

static void check_program(const char *path)
{
	char *argv[] = { "i386", NULL };
	int status, pid = child();

	if (pid == 0) {
		execve(path, argv, argv + 1);
		_exit(errno);
	}
	status = ended(pid);
	expect(status == ENOEXEC || status == 77,
	       "a program of 32 bits: %d, not ENOEXEC", status);
}

void run_i386(void)
{
	char path[32];

	snprintf(path, sizeof(path), "/stress-%d", getpid());
	if (!write_program(path))
		skip("no file can be written to /", errno);
	while (next()) {
		check_int_80();
		check_sysenter();
		check_program(path);
	}
	unlink(path);
}

/*
 * 32-bit code in a program of 64 bits, which needs nothing of Linux but the segment
 * that is always there: __USER32_CS, 0x23.  EAX comes back as 0x12345678 + 1.
 */
#define USER32_CS 0x23
#define USER_CS 0x33

/*
 *	mov	$0x12345678, %eax
 *	mov	$20000, %ecx		two ticks where KVM emulates it
 * 1:	dec	%ecx			these two are prefixes in 64-bit code
 *	jnz	1b
 *	inc	%eax
 *	lret
 */
static const unsigned char code32[] = {
	0xb8, 0x78, 0x56, 0x34, 0x12, 0xb9, 0x20, 0x4e,
	0,    0,    0x49, 0x75, 0xfd, 0x40, 0xcb,
};

static unsigned char *low; /* code32 and a stack, below 4 GiB */

static void call_code32(void)
{
	uint64_t eax;

	/* lret pops 4 bytes each in 32-bit code: EIP and CS. */
	__asm__ volatile("mov %%rsp, %%r12\n\t"
			 "lea 2048(%[low]), %%rsp\n\t"
			 "lea 1f(%%rip), %%rax\n\t"
			 "movl %%eax, (%%rsp)\n\t"
			 "movl %[cs64], 4(%%rsp)\n\t"
			 "push %[cs32]\n\t"
			 "push %[low]\n\t"
			 "lretq\n"
			 "1:\tmov %%r12, %%rsp\n\t"
			 "mov %%eax, %%eax"
			 : "=&a"(eax)
			 : [low] "r"(low), [cs32] "i"(USER32_CS), [cs64] "i"(USER_CS)
			 : "rcx", "r12", "memory", "cc");
	result = eax;
}

void run_compat(void)
{
	low = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (low == MAP_FAILED)
		skip("no memory below 4 GiB", errno);
	memcpy(low, code32, sizeof(code32));
	while (next()) {
		struct trap is;

		result = 0;
		is = trapped(call_code32);
		expect(!is.signal && result == 0x12345679, "32-bit code: %lx, %s",
		       result, trap_text(&is));
	}
}
