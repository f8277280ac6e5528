/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What a program without a C library needs: the entry point, raw x86-64 system
 * calls, and text out and in.  Every function here is small enough to inline.
 *
 * A system call returns -errno on failure, as the kernel does.
 */
#ifndef SYS_H
#define SYS_H

#include <asm/unistd.h>
#include <stddef.h>

#define STDIN 0
#define STDOUT 1
#define STDERR 2

/* The kernel leaves argc, argv and envp on the stack; main() returns the status. */
__asm__(".globl _start\n"
	"_start:\n"
	"	xor	%ebp, %ebp\n"
	"	mov	(%rsp), %rdi\n"
	"	lea	8(%rsp), %rsi\n"
	"	lea	16(%rsp,%rdi,8), %rdx\n"
	"	and	$-16, %rsp\n"
	"	call	main\n"
	"	mov	%eax, %edi\n"
	"	mov	$231, %eax\n" /* exit_group */
	"	syscall\n"
	"	ud2\n");

/* System call `nr` with up to five arguments. */
static inline long sys(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return ret;
}

#define sys0(nr) sys(nr, 0, 0, 0, 0, 0)
#define sys1(nr, a) sys(nr, (long)(a), 0, 0, 0, 0)
#define sys2(nr, a, b) sys(nr, (long)(a), (long)(b), 0, 0, 0)
#define sys3(nr, a, b, c) sys(nr, (long)(a), (long)(b), (long)(c), 0, 0)

static inline size_t length(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

/* Add `s` to the text at `to`, and return its new end; the caller sizes the buffer. */
static inline char *add(char *to, const char *s)
{
	while (*s)
		*to++ = *s++;
	*to = 0;
	return to;
}

/* Add `value` in `base` 10 or 16. */
static inline char *add_number(char *to, unsigned long value, unsigned int base)
{
	char digits[21];
	char *at = digits + sizeof(digits) - 1;

	*at = 0;
	do
		*--at = "0123456789abcdef"[value % base];
	while (value /= base);
	return add(to, at);
}

/* What stands in the environment for `name`, as "name=value"; NULL: nothing. */
static inline const char *variable(char **envp, const char *name)
{
	for (; *envp; envp++) {
		size_t n = 0;

		while (name[n] && (*envp)[n] == name[n])
			n++;
		if (!name[n] && (*envp)[n] == '=')
			return *envp;
	}
	return NULL;
}

/* Write all of `s`; what the other end refuses is lost. */
static inline void put(int fd, const char *s)
{
	size_t left = length(s);
	long n;

	while (left && (n = sys3(__NR_write, fd, s, left)) > 0) {
		s += n;
		left -= n;
	}
}

/* Read a decimal or 0x-hexadecimal number into `value`; 0 if `s` is none. */
static inline int number(const char *s, unsigned long *value)
{
	unsigned int base = 10;

	*value = 0;
	if (s[0] == '0' && s[1] == 'x') {
		base = 16;
		s += 2;
	}
	if (!*s)
		return 0;
	for (; *s; s++) {
		unsigned int digit = *s >= 'a' ? *s - 'a' + 10u : *s - '0' + 0u;

		if (digit >= base)
			return 0;
		*value = *value * base + digit;
	}
	return 1;
}

#endif
