/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Files: long copies into the kernel and out, which ticks and faults divide. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "stress.h"

#define SIZE (512 * 1024)

static void check_file(int fd, unsigned char *text)
{
	uint64_t seed = random64();
	off_t at = random64() % 4096;
	unsigned char *mapped, *fresh;

	fill_bytes(text, SIZE, seed);
	expect(pwrite(fd, text, SIZE, at) == SIZE, "write: errno %d", errno);
	/* To pages that aren't there yet. */
	fresh = map_pages(SIZE, PROT_READ | PROT_WRITE);
	expect(pread(fd, fresh, SIZE, at) == SIZE, "read: errno %d", errno);
	expect(same_bytes(fresh, SIZE, seed), "what is read isn't what was written");
	munmap(fresh, SIZE);
	mapped = mmap(NULL, SIZE + 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	if (mapped == MAP_FAILED)
		return without("mmap of files", errno);
	expect(same_bytes(mapped + at, SIZE, seed),
	       "what is mapped isn't what was written");
	munmap(mapped, SIZE + 4096);
}

void run_files(void)
{
	static unsigned char text[SIZE];
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/stress-file-%d", getpid());
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		skip("no file can be written to /", errno);
	unlink(path);
	while (next())
		check_file(fd, text);
}
