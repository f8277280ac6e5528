/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Memory: fresh pages, protection, and copies upon write. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"
#include "trap.h"

#define PAGE 4096ul
#define PAGES_MAX 64

static unsigned char *map(size_t pages)
{
	return map_pages(pages * PAGE, PROT_READ | PROT_WRITE);
}

static bool is_zero(const unsigned char *at, size_t size)
{
	for (size_t i = 0; i < size; i += 8) {
		uint64_t word;

		memcpy(&word, at + i, 8);
		if (word)
			return false;
	}
	return true;
}

static void check_fresh_pages(void)
{
	size_t pages = random64() % PAGES_MAX + 1, size = pages * PAGE;
	unsigned char *at = map(pages), *moved;
	uint64_t seed = random64();

	expect(is_zero(at, size), "fresh pages aren't zero");
	fill_bytes(at, size, seed);
	expect(same_bytes(at, size, seed), "memory doesn't keep what is written");
	/* A hole in the middle, and back. */
	if (pages > 2) {
		munmap(at + PAGE, PAGE);
		moved = mmap(at + PAGE, PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		expect(moved == at + PAGE, "mmap into a hole: errno %d", errno);
		expect(is_zero(at + PAGE, PAGE), "a page in a hole isn't zero");
		fill_bytes(at, size, seed);
	}
	moved = mremap(at, size, 2 * size, MREMAP_MAYMOVE);
	expect(moved != MAP_FAILED, "mremap: errno %d", errno);
	if (moved == MAP_FAILED) {
		munmap(at, size);
		return;
	}
	expect(same_bytes(moved, size, seed), "mremap: it isn't the same");
	expect(is_zero(moved + size, size), "mremap: what is added isn't zero");
	munmap(moved, 2 * size);
}

/* The stack grows by page faults. */
static uint64_t __attribute__((noinline)) deep(int depth)
{
	volatile unsigned char frame[2 * PAGE];

	frame[0] = depth;
	frame[PAGE] = depth + 1;
	return depth ? deep(depth - 1) + frame[PAGE] - frame[0] : 0;
}

static void check_stack(void)
{
	/* In a child, whose stack is small each time. */
	int pid = child();

	if (pid == 0)
		_exit(deep(100) == 100 ? 0 : 1);
	expect(ended(pid) == 0, "a deep stack");
}

void run_memory(void)
{
	while (next()) {
		check_fresh_pages();
		check_stack();
	}
}

/* One access, and what is known of the fault that it shall be. */
static unsigned char *target;

static void read_it(void)
{
	*(volatile unsigned char *)target;
}

static void write_it(void)
{
	*(volatile unsigned char *)target = 0x55;
}

static void call_it(void)
{
	((void (*)(void))target)();
}

static void check_fault(const char *name, void (*access)(void), int code,
			unsigned int error)
{
	struct trap is = trapped(access);

	if (access == call_it && !is.signal) {
		without("NX", 0);
		return;
	}
	expect(is.signal == SIGSEGV && is.code == code &&
		       is.address == (uint64_t)target && is.number == PF &&
		       is.cr2 == is.address && is.error == error,
	       "%s of %p: %s, error not %x", name, target, trap_text(&is), error);
}

static void check_allowed(const char *name, void (*access)(void))
{
	struct trap is = trapped(access);

	expect(!is.signal, "%s of %p: %s", name, target, trap_text(&is));
}

static void protect(unsigned char *at, int protection)
{
	expect(mprotect(at, PAGE, protection) == 0, "mprotect: errno %d", errno);
}

/* A page in the middle of others, with each protection; what it holds stays. */
static void check_page(unsigned char *at)
{
	target = at + random64() % PAGE;
	*target = 0xc3; /* ret */
	protect(at, PROT_READ);
	check_allowed("a read", read_it);
	check_fault("a write to what is read-only", write_it, SEGV_ACCERR,
		    PF_PRESENT | PF_USER | PF_WRITE);
	check_fault("a call of what is no code", call_it, SEGV_ACCERR,
		    PF_PRESENT | PF_USER | PF_FETCH);
	protect(at, PROT_NONE);
	check_fault("a read of what is closed", read_it, SEGV_ACCERR, PF_USER);
	check_fault("a write of what is closed", write_it, SEGV_ACCERR,
		    PF_USER | PF_WRITE);
	protect(at, PROT_READ | PROT_WRITE);
	check_allowed("a write", write_it);
	expect(*target == 0x55, "a write of 0x55 left %x", *target);
	munmap(at, PAGE);
	check_fault("a read of what is gone", read_it, SEGV_MAPERR, PF_USER);
	check_fault("a write of what is gone", write_it, SEGV_MAPERR,
		    PF_USER | PF_WRITE);
}

/* A handler that opens the page, and the access that is then made again. */
static sig_atomic_t opened;

static void open_page(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	opened++;
	mprotect((void *)((uint64_t)info->si_addr & -PAGE), PAGE,
		 PROT_READ | PROT_WRITE);
}

static void check_repair(unsigned char *pages, size_t count)
{
	struct sigaction action = { .sa_sigaction = open_page, .sa_flags = SA_SIGINFO },
			 before;
	uint64_t seed = random64();

	opened = 0;
	expect(mprotect(pages, count * PAGE, PROT_NONE) == 0, "mprotect: errno %d",
	       errno);
	sigaction(SIGSEGV, &action, &before);
	fill_bytes(pages, count * PAGE, seed);
	sigaction(SIGSEGV, &before, NULL);
	expect(opened == (int)count, "%d faults in %lu pages", (int)opened, count);
	expect(same_bytes(pages, count * PAGE, seed),
	       "written after a fault, it isn't the same");
}

void run_protection(void)
{
	while (next()) {
		unsigned char *pages = map(5);

		check_page(pages + PAGE);
		check_repair(pages + 2 * PAGE, 3);
		munmap(pages, 5 * PAGE);
	}
}

/* Both sides of a fork write to what they share, and see their own. */
static void check_copies(unsigned char *pages, size_t count)
{
	uint64_t seed = random64(), other = random64();
	size_t half = count / 2 * PAGE;
	int pid;

	fill_bytes(pages, count * PAGE, seed);
	pid = child();
	if (pid == 0) {
		expect(same_bytes(pages, count * PAGE, seed),
		       "a child's copy isn't the same");
		fill_bytes(pages, count * PAGE, other + 1);
		expect(same_bytes(pages, count * PAGE, other + 1),
		       "a child's own writing");
		_exit(0);
	}
	fill_bytes(pages, half, other);
	expect(same_bytes(pages, half, other), "a parent's own writing");
	expect(ended(pid) == 0, "the child failed");
	expect(same_bytes(pages, half, other),
	       "a parent's memory has a child's writing");
	fill_bytes(pages, count * PAGE, seed);
	expect(same_bytes(pages, count * PAGE, seed),
	       "memory after the child has gone");
}

/* What is shared is seen on both sides. */
static void check_shared(unsigned char *pages, size_t count)
{
	uint64_t seed = random64();
	int pid = child();

	if (pid == 0) {
		fill_bytes(pages, count * PAGE, seed);
		_exit(0);
	}
	expect(ended(pid) == 0, "the child failed");
	expect(same_bytes(pages, count * PAGE, seed),
	       "a child's writing to shared memory");
}

void run_cow(void)
{
	size_t count = 32;
	unsigned char *mine = map(count), *shared;

	shared = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		skip("shared memory", errno);
	while (next()) {
		check_copies(mine, count);
		check_shared(shared, count);
	}
}
