/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
#define _GNU_SOURCE
/*
 * KVM_RUN with the accesses that need no Python: fast ports and posted writes.
 *
 * enter_guest() is KVM_RUN, except that an exit for a fast port is served here and
 * the guest entered again.  Everything else is returned to, and told by, kvm_run,
 * as the ioctl itself would.  What a fast port is: devices/fast_port.py.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define RING_SIZE	4096
#define ANSWERS		0x100
#define FAST_PORTS_MAX	16

struct fast_port {
	_Atomic uint32_t answer;	/* ANSWERS | what a read gives, or 0 */
	_Atomic uint32_t limit;		/* where head has to stop */
	_Atomic uint32_t head;		/* bytes written so far */
	_Atomic uint32_t busy;		/* somebody is writing */
	uint8_t ring[RING_SIZE];
};

_Static_assert(offsetof(struct fast_port, answer) == 0, "as fast_port.py has it");
_Static_assert(offsetof(struct fast_port, limit) == 4, "as fast_port.py has it");
_Static_assert(offsetof(struct fast_port, head) == 8, "as fast_port.py has it");
_Static_assert(offsetof(struct fast_port, busy) == 12, "as fast_port.py has it");
_Static_assert(offsetof(struct fast_port, ring) == 16, "as fast_port.py has it");

struct run_loop {
	int fd;				/* the vCPU */
	int (*run_vcpu)(int fd);	/* tests put something else here */
	struct kvm_run *kvm_run;
	struct kvm_coalesced_mmio_ring *posted;	/* NULL: none */
	uint32_t posted_max;		/* entries in that ring */
	const volatile uint8_t *replaced;	/* the table is out of date */
	uint32_t count;
	uint16_t port[FAST_PORTS_MAX];
	struct fast_port *fast[FAST_PORTS_MAX];
	uint64_t served;		/* exits that Python has not seen */
	uint64_t collected;		/* writes that made no exit */
	timer_t ticks;
};

static int run_vcpu(int fd)
{
	return ioctl(fd, KVM_RUN, 0);
}

static struct fast_port *find(const struct run_loop *loop, uint64_t port)
{
	for (uint32_t i = 0; i < loop->count; i++)
		if (loop->port[i] == port)
			return loop->fast[i];
	return NULL;
}

/* Append a byte to the ring; 0 if the device doesn't take it from here. */
static int put(struct fast_port *fast, uint8_t value)
{
	uint32_t head;
	int taken;

	/* Other vCPUs write here, too.  Never held for longer than this. */
	while (atomic_exchange(&fast->busy, 1))
		sched_yield();
	head = atomic_load(&fast->head);
	taken = atomic_load(&fast->limit) - head - 1 < RING_SIZE;
	if (taken) {
		fast->ring[head % RING_SIZE] = value;
		atomic_store(&fast->head, head + 1);
	}
	atomic_store(&fast->busy, 0);
	return taken;
}

/*
 * Hand on the writes that KVM has collected; 0 if one is left for Python, which
 * then takes it and all that follow before it looks at the exit.
 */
static int deliver_posted(struct run_loop *loop)
{
	struct kvm_coalesced_mmio_ring *ring = loop->posted;
	uint32_t first, last;

	if (!ring)
		return 1;
	first = ring->first;
	last = __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE);
	for (; first != last; first = (first + 1) % loop->posted_max) {
		const struct kvm_coalesced_mmio *write = &ring->coalesced_mmio[first];
		struct fast_port *fast;

		if (!write->pio || write->len != 1)
			break;
		fast = find(loop, write->phys_addr);
		if (!fast || !put(fast, write->data[0]))
			break;
		loop->collected++;
	}
	__atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
	return first == last;
}

/* Do what the exit asks for; 0 if it is for Python. */
static int serve(struct run_loop *loop)
{
	struct kvm_run *kvm_run = loop->kvm_run;
	uint8_t *data = (uint8_t *)kvm_run + kvm_run->io.data_offset;
	struct fast_port *fast;
	uint32_t answer;

	if (kvm_run->exit_reason != KVM_EXIT_IO)
		return 0;
	if (kvm_run->io.size != 1 || kvm_run->io.count != 1)
		return 0;
	fast = find(loop, kvm_run->io.port);
	if (!fast)
		return 0;
	if (kvm_run->io.direction == KVM_EXIT_IO_OUT)
		return put(fast, *data);
	answer = atomic_load(&fast->answer);
	*data = answer;
	return answer != 0;
}

/*
 * Returns 0 with the exit in kvm_run, or an errno.  Needs no Python lock.  A signal
 * that comes without immediate_exit is a tick: it has brought out posted writes.
 */
static int enter_guest(struct run_loop *loop)
{
	for (;;) {
		int error = loop->run_vcpu(loop->fd) < 0 ? errno : 0;

		if (error && (error != EINTR || loop->kvm_run->immediate_exit))
			return error;
		if (*loop->replaced || !deliver_posted(loop))
			return error;
		if (error)
			continue;
		if (!serve(loop))
			return 0;
		loop->served++;
	}
}

/*
 * Let a signal interrupt the calling thread's KVM_RUN again and again, so that no
 * posted write waits for longer than `interval_ns` for the guest's next exit.
 * Returns 0 or an errno.
 */
static int start_ticks(struct run_loop *loop, int signal, long interval_ns)
{
	struct itimerspec every = {{0, interval_ns}, {0, interval_ns}};
	struct sigevent event = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = signal,
		._sigev_un._tid = gettid(),
	};

	if (timer_create(CLOCK_MONOTONIC, &event, &loop->ticks) < 0)
		return errno;
	return timer_settime(loop->ticks, 0, &every, NULL) < 0 ? errno : 0;
}

static void stop_ticks(struct run_loop *loop)
{
	timer_delete(loop->ticks);
}
