/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Where a file has data.
 *
 * lseek(2) tells where the file system knows of holes.  ramfs, which an initramfs is,
 * doesn't; but there what isn't in the page cache was never written, and reading a
 * hole would put pages there that never leave: mincore(2) tells, and reads nothing.
 */
#ifndef AGENT_HOLES_H
#define AGENT_HOLES_H

#include <asm/mman.h>
#include <asm/statfs.h>
#include <linux/fcntl.h>
#include <linux/magic.h>

#include "archive.h"

#define MAP_SHARED 1
#define SEEK_DATA 3
#define SEEK_HOLE 4
#define PAGE 4096
#define LOOK_PAGES 16384 /* that one mincore looks at */

static unsigned char in_memory[LOOK_PAGES];

static int is_ramfs(int fd)
{
	struct statfs fs;

	return sys2(__NR_fstatfs, fd, &fs) == 0 && fs.f_type == RAMFS_MAGIC;
}

/* Map pages of a file, to be looked at; -errno if that can't be. */
static long map_pages(int fd, unsigned long at, unsigned long size)
{
	register long r10 __asm__("r10") = MAP_SHARED;
	register long r8 __asm__("r8") = fd;
	register long r9 __asm__("r9") = at;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(__NR_mmap), "D"(0), "S"(size), "d"(PROT_READ), "r"(r10),
			   "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

/* The first page at or behind `at` that is in the page cache, or isn't; or `size`. */
static unsigned long next_page(int fd, unsigned long at, unsigned long size, int wanted)
{
	for (at &= ~(PAGE - 1ul); at < size; at += LOOK_PAGES * PAGE) {
		unsigned long pages = (size - at + PAGE - 1) / PAGE;
		long map, error;

		if (pages > LOOK_PAGES)
			pages = LOOK_PAGES;
		map = map_pages(fd, at, pages * PAGE);
		if (map < 0 && map > -PAGE)
			return wanted ? at : size;
		error = sys3(__NR_mincore, map, pages * PAGE, in_memory);
		sys2(__NR_munmap, map, pages * PAGE);
		if (error)
			return wanted ? at : size;
		for (unsigned long i = 0; i < pages; i++)
			if ((in_memory[i] & 1) == wanted)
				return at + i * PAGE;
	}
	return size;
}

/* Find data at or behind `*at`, and its end; 0 if there is none up to `size`. */
static int find_data(int fd, int in_ram, unsigned long size, unsigned long *at,
		     unsigned long *end)
{
	unsigned long from = *at;
	long found;

	if (in_ram) {
		*at = next_page(fd, from, size, 1);
		if (*at < from)
			*at = from;
		*end = next_page(fd, *at, size, 0);
		return *at < size;
	}
	found = sys3(__NR_lseek, fd, from, SEEK_DATA);
	if (found == -ENXIO)
		return 0;
	if (found < 0) { /* no such file system: all is data */
		*end = size;
		return from < size;
	}
	*at = found;
	found = sys3(__NR_lseek, fd, *at, SEEK_HOLE);
	*end = found < 0 || (unsigned long)found > size ? size : (unsigned long)found;
	return *at < size && *at < *end;
}

#endif
