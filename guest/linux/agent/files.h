/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the agent does with files for the host: `vmm-agent --get PATH` and so on, which
 * it runs as it runs commands, with pipes for stdin and stdout.
 *
 *	--exists PATH		access(2)
 *	--read PATH		its content to stdout
 *	--write PATH MODE	stdin to it; MODE, octal, if it is made
 *	--get PATH		it as an archive to stdout
 *	--put PATH		an archive from stdin to it, or into it
 *
 * The status is an errno.
 */
#ifndef AGENT_FILES_H
#define AGENT_FILES_H

#include "archive.h"
#include "holes.h"

struct dirent64 {
	unsigned long ino;
	long offset;
	unsigned short size;
	unsigned char type;
	char name[];
};

/* Write data up to its last byte that is no zero, as a piece of its own. */
static int write_piece(unsigned long offset, size_t size)
{
	unsigned char head[PIECE];
	int error;

	for (size_t i = 0;; i++) {
		if (i == size)
			return 0; /* zeros are as good as a hole */
		if (block[i])
			break;
	}
	put64(head, offset);
	put32(head + 8, size);
	error = write_all(STDOUT, head, sizeof(head));
	return error ? error : write_all(STDOUT, block, size);
}

/* Send its pieces. /proc has files that say their size is 0: those go to their end. */
static int send_pieces(int fd, unsigned long size)
{
	static const unsigned char last[PIECE];
	int in_ram = is_ramfs(fd), error = 0;
	unsigned long at = 0, end = 0;
	long n;

	while (!error && size && find_data(fd, in_ram, size, &at, &end))
		while (!error && at < end) {
			size_t most = end - at < sizeof(block) ? end - at : sizeof(block);

			n = sys(__NR_pread64, fd, (long)block, most, at, 0);
			if (n <= 0) {
				if (n == 0) /* it has shrunk */
					return write_all(STDOUT, last, sizeof(last));
				return -n;
			}
			error = write_piece(at, n);
			at += n;
		}
	while (!error && !size) {
		n = sys3(__NR_read, fd, block, sizeof(block));
		if (n <= 0) {
			error = -n;
			break;
		}
		error = write_piece(at, n);
		at += n;
	}
	return error ? error : write_all(STDOUT, last, sizeof(last));
}

static int send_entry(int dir, const char *name, int depth);

static int send_directory(int dir, const char *name, const struct stat *of, int depth)
{
	static const struct stat none;
	char names[2048] __attribute__((aligned(8)));
	int fd = sys(__NR_openat, dir, (long)name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW,
		     0, 0);
	int error = fd < 0 ? -fd : depth > DEPTH_MAX ? ELOOP : 0;
	long n;

	if (!error)
		error = write_record(DIRECTORY, name, of);
	while (!error && (n = sys3(__NR_getdents64, fd, names, sizeof(names))) != 0) {
		if (n < 0)
			error = -n;
		for (long at = 0; !error && at < n;) {
			struct dirent64 *entry = (struct dirent64 *)(names + at);
			const char *in = entry->name;

			at += entry->size;
			if (in[0] != '.' || (in[1] && (in[1] != '.' || in[2])))
				error = send_entry(fd, in, depth + 1);
		}
	}
	if (fd >= 0)
		sys1(__NR_close, fd);
	return error ? error : write_record(UP, "", &none);
}

static int send_file(int dir, const char *name, const struct stat *of)
{
	int fd = sys(__NR_openat, dir, (long)name, O_RDONLY | O_NONBLOCK, 0, 0);
	int error;

	if (fd < 0)
		return -fd;
	error = write_record(FILE, name, of);
	if (!error)
		error = send_pieces(fd, of->st_size);
	sys1(__NR_close, fd);
	return error;
}

static int send_link(int dir, const char *name, struct stat *of)
{
	char target[PATH_SIZE];
	long n = sys(__NR_readlinkat, dir, (long)name, (long)target, sizeof(target), 0);
	int error;

	if (n < 0)
		return -n;
	of->st_size = n;
	error = write_record(LINK, name, of);
	return error ? error : write_all(STDOUT, target, n);
}

/* Send what `name` in `dir` is; devices, FIFOs and sockets in a directory stay out. */
static int send_entry(int dir, const char *name, int depth)
{
	size_t before = depth ? enter(name) : length(archive_path);
	struct stat status;
	/* What was named is followed; in a directory, links stay links. */
	int error = -sys(__NR_newfstatat, dir, (long)name, (long)&status,
			 depth ? AT_SYMLINK_NOFOLLOW : 0, 0);

	if (!error && (status.st_mode & S_IFMT) == S_IFDIR)
		error = send_directory(dir, name, &status, depth);
	else if (!error && (status.st_mode & S_IFMT) == S_IFREG)
		error = send_file(dir, name, &status);
	else if (!error && (status.st_mode & S_IFMT) == S_IFLNK)
		error = send_link(dir, name, &status);
	else if (!error && !depth)
		error = EINVAL; /* what is no file can be read, but not got */
	if (!error)
		archive_path[before] = 0;
	return error;
}

static int get(const char *path)
{
	int error;

	add(archive_path, path);
	error = send_entry(AT_FDCWD, path, 0);
	return error ? fault(error, archive_path) : 0;
}

static void adopt(int fd, const struct record *as)
{
	struct __kernel_timespec {
		long seconds, ns;
	} times[2];

	times[0].seconds = times[1].seconds = as->mtime / 1000000000;
	times[0].ns = times[1].ns = as->mtime % 1000000000;
	sys2(__NR_fchmod, fd, as->mode & 07777);
	sys(__NR_utimensat, fd, 0, (long)times, 0, 0);
}

static int receive_pieces(int fd, unsigned long size)
{
	unsigned char head[PIECE];
	int error = 0;

	while (!error && !(error = read_exactly(head, sizeof(head)))) {
		unsigned long at = get64(head);
		unsigned int left = get32(head + 8);

		if (!left)
			return -sys2(__NR_ftruncate, fd, size);
		while (!error && left) {
			size_t part = left < sizeof(block) ? left : sizeof(block);

			error = read_exactly(block, part);
			for (size_t done = 0; !error && done < part;) {
				long n = sys(__NR_pwrite64, fd, (long)block + done,
					     part - done, at + done, 0);

				error = n < 0 ? -n : 0;
				done += n > 0 ? n : 0;
			}
			at += part;
			left -= part;
		}
	}
	return error;
}

/* A file appears whole, under another name until then. */
static int receive_file(int dir, const char *name, const struct record *of)
{
	char hidden[40]; /* another one's may be in the same directory at once */
	int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
	int fd, error;

	add_number(add(hidden, ".vmm-agent-put."), sys0(__NR_getpid), 10);
	sys3(__NR_unlinkat, dir, hidden, 0);
	fd = sys(__NR_openat, dir, (long)hidden, flags, 0600, 0);
	if (fd < 0)
		return -fd;
	error = receive_pieces(fd, of->size);
	if (!error) {
		adopt(fd, of);
		error = -sys(__NR_renameat, dir, (long)hidden, dir, (long)name, 0);
	}
	sys1(__NR_close, fd);
	if (error)
		sys3(__NR_unlinkat, dir, hidden, 0);
	return error;
}

static int receive_link(int dir, const char *name, const struct record *of)
{
	char target[PATH_SIZE];
	int error = of->size < sizeof(target) ? 0 : ENAMETOOLONG;

	if (!error)
		error = read_exactly(target, of->size);
	if (error)
		return error;
	target[of->size] = 0;
	sys3(__NR_unlinkat, dir, name, 0);
	return -sys3(__NR_symlinkat, target, dir, name);
}

static int receive_entry(int dir, const char *name, const struct record *of, int depth);

static int receive_directory(int dir, const char *name, const struct record *of,
			     int depth)
{
	struct record entry;
	int error = -sys3(__NR_mkdirat, dir, name, 0700), fd;

	if (error && error != EEXIST)
		return error;
	fd = sys(__NR_openat, dir, (long)name, O_RDONLY | O_DIRECTORY, 0, 0);
	if (fd < 0)
		return -fd;
	error = depth > DEPTH_MAX ? ELOOP : 0;
	while (!error && !(error = read_record(&entry)) && entry.kind != UP) {
		size_t before = enter(entry.name);

		error = receive_entry(fd, entry.name, &entry, depth + 1);
		if (!error)
			archive_path[before] = 0;
	}
	if (!error)
		adopt(fd, of);
	sys1(__NR_close, fd);
	return error;
}

static int receive_entry(int dir, const char *name, const struct record *of, int depth)
{
	if (of->kind == DIRECTORY)
		return receive_directory(dir, name, of, depth);
	if (of->kind == FILE)
		return receive_file(dir, name, of);
	if (of->kind == LINK)
		return receive_link(dir, name, of);
	return EINVAL;
}

/* A file goes into a directory that is there, or that a slash tells of. */
static int put_into(const char *path)
{
	struct record top;
	struct stat status;
	int error = read_record(&top);

	add(archive_path, path);
	if (error)
		return fault(error, archive_path);
	if (top.kind != DIRECTORY &&
	    (path[length(path) - 1] == '/' ||
	     (sys2(__NR_stat, path, &status) == 0 &&
	      (status.st_mode & S_IFMT) == S_IFDIR)))
		enter(top.name);
	{
		char whole[PATH_SIZE], *end = whole, *name = whole;
		int dir = AT_FDCWD;

		add(whole, archive_path);
		for (end = whole + length(whole); end > whole + 1 && end[-1] == '/';)
			*--end = 0;
		while (end > whole && end[-1] != '/')
			end--;
		if (end > whole && *end) {
			char was = *end;

			name = archive_path + (end - whole);
			*end = 0;
			dir = sys(__NR_openat, AT_FDCWD, (long)whole,
				  O_RDONLY | O_DIRECTORY, 0, 0);
			*end = was;
			name = end;
		}
		error = dir < 0 && dir != AT_FDCWD ? -dir
						   : receive_entry(dir, name, &top, 0);
	}
	return error ? fault(error, archive_path) : 0;
}

static int read_file(const char *path)
{
	int fd = sys2(__NR_open, path, O_RDONLY), error = 0;
	long n;

	if (fd < 0)
		return -fd;
	while (!error && (n = sys3(__NR_read, fd, block, sizeof(block))) > 0)
		error = write_all(STDOUT, block, n);
	return error ? error : n < 0 ? -n : 0;
}

/* By as few writes as there can be: files in /sys want all at once. */
static int write_file(const char *path, const char *mode)
{
	unsigned int bits = 0;
	int fd, error = 0;
	long n;

	for (; *mode; mode++)
		bits = bits * 8 + (*mode & 7);
	fd = sys3(__NR_open, path, O_WRONLY | O_CREAT | O_TRUNC, bits);
	if (fd < 0)
		return -fd;
	do {
		n = read_all(STDIN, block, sizeof(block));
		error = n < 0 ? -n : n ? write_all(fd, block, n) : 0;
	} while (!error && n == sizeof(block));
	return error;
}

static int equal(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

/* Do what the arguments say, in a process of its own. */
static int tool(char **argv)
{
	const char *what = argv[0], *path = argv[1];

	if (!path || !*path || length(path) >= PATH_SIZE - NAME_SIZE)
		return path && *path ? ENAMETOOLONG : ENOENT;
	if (equal(what, "--exists"))
		return -sys2(__NR_access, path, 0);
	if (equal(what, "--read"))
		return read_file(path);
	if (equal(what, "--write") && argv[2])
		return write_file(path, argv[2]);
	if (equal(what, "--get"))
		return get(path);
	if (equal(what, "--put"))
		return put_into(path);
	return EINVAL;
}

#endif
