/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * virtio_loop: the least that a device can do for a driver that waits for bytes.
 *
 * Sleeps on the same eventfd as the device in Python, fills every buffer of a split
 * ring with zeros, and interrupts by the same eventfd, until `stop` is signalled.
 * EVENT_IDX is taken to be negotiated, INDIRECT not to be used: so does Linux's
 * virtio-rng, whose requests are one buffer each.
 */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>

struct loop {
	unsigned char *ram;	/* guest physical 0 */
	uint64_t desc, driver, device;	/* guest physical addresses of the ring's areas */
	uint32_t size;
	int kick, call, stop;
	uint16_t next;		/* the next index of both rings */
};

static void serve_all(struct loop *loop)
{
	struct vring_desc *desc = (void *)(loop->ram + loop->desc);
	struct vring_avail *avail = (void *)(loop->ram + loop->driver);
	struct vring_used *used = (void *)(loop->ram + loop->device);
	uint16_t mask = loop->size - 1, before = loop->next;
	uint16_t *used_event = &avail->ring[loop->size];
	uint16_t *avail_event = (uint16_t *)&used->ring[loop->size];

	do {
		while (loop->next != __atomic_load_n(&avail->idx, __ATOMIC_ACQUIRE)) {
			uint16_t head = avail->ring[loop->next & mask];
			struct vring_used_elem *done = &used->ring[loop->next & mask];

			memset(loop->ram + desc[head].addr, 0, desc[head].len);
			done->id = head;
			done->len = desc[head].len;
			__atomic_store_n(&used->idx, ++loop->next, __ATOMIC_RELEASE);
		}
		__atomic_store_n(avail_event, loop->next, __ATOMIC_SEQ_CST);
	} while (loop->next != __atomic_load_n(&avail->idx, __ATOMIC_SEQ_CST));
	if (loop->next != before &&
	    vring_need_event(__atomic_load_n(used_event, __ATOMIC_SEQ_CST), loop->next, before))
		eventfd_write(loop->call, 1);
}

/* Run until `stop` is signalled; 0, or an errno. */
int virtio_loop(struct loop *loop)
{
	struct pollfd fds[] = {{.fd = loop->kick, .events = POLLIN},
			       {.fd = loop->stop, .events = POLLIN}};
	eventfd_t count;

	for (;;) {
		serve_all(loop);
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return errno;
		if (fds[1].revents)
			return 0;
		if (fds[0].revents && eventfd_read(loop->kick, &count) < 0 && errno != EAGAIN)
			return errno;
	}
}
