/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * keylog: print key events of an input device.
 *
 *	keylog COUNT [DEVICE]		DEVICE: /dev/input/event0
 *
 * Says `keylog: ready` once the device is open, then prints COUNT lines
 * `key CODE VALUE` (linux/input-event-codes.h; 1 press, 0 release, 2 repeat),
 * and ends.
 */
#include <linux/fcntl.h>
#include <linux/input.h>

#include "sys.h"

static int fail(const char *why)
{
	put(STDERR, why);
	return 2;
}

int main(int argc, char **argv)
{
	struct input_event event;
	unsigned long left;
	char line[64];
	long fd;

	if (argc < 2 || !number(argv[1], &left))
		return fail("usage: keylog COUNT [DEVICE]\n");
	fd = sys2(__NR_open, argc > 2 ? argv[2] : "/dev/input/event0", O_RDONLY);
	if (fd < 0)
		return fail("keylog: no such input device\n");
	put(STDOUT, "keylog: ready\n");
	while (left) {
		if (sys3(__NR_read, fd, &event, sizeof(event)) != sizeof(event))
			return fail("keylog: the device ended\n");
		if (event.type != EV_KEY)
			continue;
		char *at = add_number(add(line, "key "), event.code, 10);

		add(add_number(add(at, " "), event.value, 10), "\n");
		put(STDOUT, line);
		left--;
	}
	return 0;
}
