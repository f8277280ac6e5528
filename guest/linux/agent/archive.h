/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Files and directories as a stream, both ways; vmm/agent/archive.py is the other end.
 *
 * A record for each: kind, name length u16, mode u32, mtime in ns u64, size u64, name.
 * Behind that of a file come its pieces, offset u64, size u32, data, what lies between
 * being a hole, up to a piece of size 0; behind that of a link its target.  What is in
 * a directory follows it, up to an UP.  FAULT has an errno for a mode, and ends it all.
 */
#ifndef AGENT_ARCHIVE_H
#define AGENT_ARCHIVE_H

#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/stat.h>
#include <asm/stat.h>

#include "../sys.h"
#include "frame.h"

#define DIRECTORY 'd'
#define FILE 'f'
#define LINK 'l'
#define UP 'u'
#define FAULT 'x'
#define RECORD 23
#define PIECE 12
#define NAME_SIZE 256
#define PATH_SIZE 4096
#define DEPTH_MAX 64

static unsigned char block[65536];
static char archive_path[PATH_SIZE]; /* of what is at work, for a message */

struct record {
	int kind;
	unsigned int mode;
	unsigned long mtime, size;
	char name[NAME_SIZE];
};

static void put64(unsigned char *at, unsigned long value)
{
	put32(at, value);
	put32(at + 4, value >> 32);
}

static unsigned long get64(const unsigned char *at)
{
	return get32(at) | (unsigned long)get32(at + 4) << 32;
}

/* Write all of it; an errno. */
static int write_all(int fd, const void *data, size_t size)
{
	const char *at = data;
	long n;

	for (; size; at += n, size -= n) {
		n = sys3(__NR_write, fd, at, size);
		if (n <= 0)
			return n ? -n : EIO;
	}
	return 0;
}

/* Read until `size` bytes are there, or the end; how many, or -errno. */
static long read_all(int fd, void *data, size_t size)
{
	size_t have = 0;
	long n;

	while (have < size) {
		n = sys3(__NR_read, fd, (char *)data + have, size - have);
		if (n < 0)
			return n;
		if (!n)
			break;
		have += n;
	}
	return have;
}

static int read_exactly(void *data, size_t size)
{
	long n = read_all(STDIN, data, size);

	return n < 0 ? -n : (size_t)n < size ? EPIPE : 0;
}

static int write_record(int kind, const char *name, const struct stat *of)
{
	unsigned char record[RECORD + PATH_SIZE];
	size_t size = length(name);

	if (size > PATH_SIZE)
		size = PATH_SIZE;
	record[0] = kind;
	record[1] = size;
	record[2] = size >> 8;
	put32(record + 3, of->st_mode);
	put64(record + 7, of->st_mtime * 1000000000 + of->st_mtime_nsec);
	put64(record + 15, of->st_size);
	for (size_t i = 0; i < size; i++)
		record[RECORD + i] = name[i];
	return write_all(STDOUT, record, RECORD + size);
}

static int read_record(struct record *to)
{
	unsigned char head[RECORD];
	unsigned int size;
	int error = read_exactly(head, sizeof(head));

	if (error)
		return error;
	to->kind = head[0];
	size = get16(head + 1);
	to->mode = get32(head + 3);
	to->mtime = get64(head + 7);
	to->size = get64(head + 15);
	if (size >= NAME_SIZE)
		return ENAMETOOLONG;
	to->name[size] = 0;
	return read_exactly(to->name, size);
}

/* Tell of an error, and give it back. */
static int fault(int error, const char *path)
{
	struct stat none = { .st_mode = error };

	write_record(FAULT, path, &none);
	return error;
}

/* Add `name` to archive_path; how long that was before, to cut it off again. */
static size_t enter(const char *name)
{
	size_t before = length(archive_path), size = length(name);

	if (before + size + 2 <= sizeof(archive_path))
		add(add(archive_path + before,
			before && archive_path[before - 1] != '/' ? "/" : ""),
		    name);
	return before;
}

#endif
