/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * portio: read and write x86 I/O ports from userspace.
 *
 *	portio ACCESS...
 *	r1|r2|r4 PORT		read, and print the value as 0x<hex> on a line
 *	w1|w2|w4 PORT VALUE	write
 *
 * The number is the width in bytes.  Accesses happen in the order given.  For
 * MMIO use busybox devmem.
 */
#include "sys.h"

static unsigned int in(unsigned short port, char width)
{
	unsigned int value = 0;

	if (width == '1')
		__asm__ volatile("inb %1, %b0" : "+a"(value) : "Nd"(port));
	else if (width == '2')
		__asm__ volatile("inw %1, %w0" : "+a"(value) : "Nd"(port));
	else
		__asm__ volatile("inl %1, %0" : "+a"(value) : "Nd"(port));
	return value;
}

static void out(unsigned short port, char width, unsigned int value)
{
	if (width == '1')
		__asm__ volatile("outb %b0, %1" : : "a"(value), "Nd"(port));
	else if (width == '2')
		__asm__ volatile("outw %w0, %1" : : "a"(value), "Nd"(port));
	else
		__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static int fail(const char *why)
{
	put(STDERR, why);
	return 2;
}

/* Do the access that argv starts with; return how many words it took, 0: none. */
static int access(char **argv)
{
	const char *word = argv[0];
	unsigned long port, value = 0;
	char line[16];

	if ((word[0] != 'r' && word[0] != 'w') || word[2] ||
	    (word[1] != '1' && word[1] != '2' && word[1] != '4'))
		return 0;
	if (!argv[1] || !number(argv[1], &port) || port > 0xffff)
		return 0;
	if (word[0] == 'w') {
		if (!argv[2] || !number(argv[2], &value))
			return 0;
		out(port, word[1], value);
		return 3;
	}
	value = in(port, word[1]);
	add(add_number(add(line, "0x"), value, 16), "\n");
	put(STDOUT, line);
	return 2;
}

int main(int argc, char **argv)
{
	int words;

	if (argc < 2)
		return fail("usage: portio r1|r2|r4 PORT | w1|w2|w4 PORT VALUE ...\n");
	/* Level 3 opens all 65536 ports to this process. */
	if (sys1(__NR_iopl, 3) < 0)
		return fail("portio: iopl refused (root? CONFIG_X86_IOPL_IOPERM?)\n");
	for (argv++; *argv; argv += words) {
		words = access(argv);
		if (!words)
			return fail("portio: bad access\n");
	}
	return 0;
}
