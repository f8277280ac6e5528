/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vmm-agent: runs commands in a guest for its host, as many and as often as it likes.
 *
 * The VMM puts it into the initramfs and boots with rdinit=/vmm-agent: then it makes way
 * for the init of the user's, and goes on beside it (agent/start.h).  In an image of his
 * own a user may start it as he likes, without arguments.  They talk by ttyS1, in frames
 * (agent/frame.h): the host says HELLO, with a session's number, entropy and the time;
 * from then on it runs commands (agent/commands.h), some of which are our own (files.h).
 * A HELLO may come at any time: from the host of a clone, whose guest knew another.
 *
 * All memory is static and locked, and the kernel is told to kill others first.
 * VMM_AGENT_LINE in the environment names another line than ttyS1, for tests.
 *
 * No C library: see sys.h.
 */
#include <asm/mman.h>
#include <linux/random.h>
#include <linux/time.h>

#include "agent/commands.h"
#include "agent/files.h"
#include "agent/ports.h"
#include "agent/start.h"

#define VERSION 1
#define ENTROPY 32
#define HELLO_SIZE (1 + 4 + ENTROPY + 8)
#define PATIENCE_NS 20000000 /* with a command whose streams have ended, for its exit */
#define TAKEN_STEP 8192 /* bytes of ours that the host may have to wait for */

struct entropy {
	int bits, size;
	unsigned char data[ENTROPY];
};

static int line = -1, random_fd = -1;
static unsigned char wire[WIRE_MAX]; /* a frame of the host's, as far as it has come */
static size_t wire_size;
static int wire_is_bad; /* too long to be a frame: skip it */
static int in_session;
static unsigned int session;
static unsigned char in_sequence;
static unsigned int taken, taken_told; /* bytes from the host, since its HELLO */

static void take_entropy(const unsigned char *data)
{
	struct entropy entropy = { .bits = 8 * ENTROPY, .size = ENTROPY };

	for (int i = 0; i < ENTROPY; i++)
		entropy.data[i] = data[i];
	sys3(__NR_ioctl, random_fd, RNDADDENTROPY, &entropy);
	sys2(__NR_ioctl, random_fd, RNDRESEEDCRNG);
}

static void set_clock(unsigned long ns)
{
	long now[2] = { ns / 1000000000, ns % 1000000000 };

	if (ns)
		sys2(__NR_clock_settime, CLOCK_REALTIME, now);
}

/* A new session: nothing of the one before goes out any more. */
static void hello(const unsigned char *data, size_t size)
{
	if (size < HELLO_SIZE)
		return;
	/* Said twice, for the host couldn't know that the first one is on its way. */
	if (in_session && get32(data + 1) == session)
		return;
	session = get32(data + 1);
	for (struct command *c = commands; c < commands + COMMANDS; c++)
		if (c->pid)
			disown(c);
	out_start = out_end = 0;
	if (!has_ports)
		sys3(__NR_ioctl, line, TCFLSH, 1); /* output */
	out[out_end++] = 0; /* ends what was cut off */
	out_sequence = 0;
	in_session = 1;
	in_sequence = 1;
	taken = taken_told = 0;
	order_size = 0;
	take_entropy(data + 5);
	set_clock(get64(data + 5 + ENTROPY));
	payload[0] = VERSION;
	put32(payload + 1, session);
	send(WELCOME, 0, 5);
}

static void add_to_order(const unsigned char *data, size_t size)
{
	for (size_t i = 0; i < size && order_size < ORDER_MAX; i++)
		order[order_size++] = data[i];
}

static void obey(struct command *c, enum type type, const unsigned char *data,
		 size_t size)
{
	if (type == INPUT)
		take_input(c, data, size);
	else if (type == INPUT_END)
		end_input(c);
	else if (type == CREDIT && size == 5)
		c->credit[data[0] & 1] += get32(data + 1);
	else if (type == SIGNAL && size == 2)
		signal_command(c, data[0], data[1]);
	else if (type == WINDOW && size == 4)
		resize(c, get16(data), get16(data + 2));
	else if (type == CLOSE)
		disown(c);
}

static void take_frame(unsigned char *frame, size_t size)
{
	enum type type;
	unsigned int channel;

	size = unstuff(frame, size);
	if (!size)
		return;
	type = frame[0];
	channel = get16(frame + 2);
	if (type == HELLO) {
		hello(frame + HEAD, size - HEAD);
		return;
	}
	if (!in_session)
		return;
	/* One that is behind was said twice, too; one ahead tells that others are lost. */
	if ((unsigned char)(frame[1] - in_sequence) >= 128)
		return;
	if (frame[1] != in_sequence)
		send(LOST, 0, 0);
	in_sequence = frame[1] + 1;
	frame += HEAD;
	size -= HEAD;
	if (type == PING) {
		send(PONG, 0, 0);
	} else if (type == RUN_MORE || type == RUN) {
		add_to_order(frame, size);
		if (type == RUN) {
			start(channel);
			order_size = 0;
		}
	} else {
		struct command *c = find(channel);

		if (c) /* else it has ended */
			obey(c, type, frame, size);
	}
}

static void take_bytes(const unsigned char *data, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		taken++;
		if (!data[i]) {
			if (wire_size && !wire_is_bad)
				take_frame(wire, wire_size);
			wire_size = wire_is_bad = 0;
		} else if (wire_size < sizeof(wire)) {
			wire[wire_size++] = data[i];
		} else {
			wire_is_bad = 1;
		}
	}
}

/* Take what the line has; 0 when it has hung up. */
static int receive(void)
{
	static unsigned char some[4096];
	long n = sys3(__NR_read, line, some, sizeof(some));

	if (n == -EAGAIN || n == -EINTR)
		return 1;
	if (n <= 0)
		return 0;
	if (has_ports) {
		unsigned int piece;

		do {
			piece = fetch();
			if (piece != NOBODY)
				take_bytes(inbox + 2, piece & ~MORE);
		} while (piece != NOBODY && piece & MORE);
	} else {
		take_bytes(some, n);
	}
	if (in_session && taken - taken_told >= TAKEN_STEP) {
		put32(payload, taken_told = taken);
		send(TAKEN, 0, 4);
	}
	return 1;
}

static int flush(void)
{
	if (has_ports)
		flush_by_port();
	while (out_start < out_end) {
		long n = sys3(__NR_write, line, out + out_start, out_end - out_start);

		if (n == -EAGAIN || n == -EINTR)
			return 1;
		if (n <= 0)
			return 0;
		out_start += n;
	}
	return 1;
}

/* What is waited for: the line, and for each command its three descriptors. */
static struct pollfd watched[1 + 3 * COMMANDS];

static void watch(struct pollfd *at, int fd, int events)
{
	at->fd = events ? fd : -1;
	at->events = events;
	at->revents = 0;
}

static void watch_all(void)
{
	int room = has_room();
	struct pollfd *at = watched + 1;

	watch(watched, line, POLLIN | (out_start < out_end ? POLLOUT : 0));
	for (struct command *c = commands; c < commands + COMMANDS; c++, at += 3) {
		watch(at, c->in, c->pid && c->waiting ? POLLOUT : 0);
		for (int i = 0; i < 2; i++) {
			int reads = c->pid && (!c->is_ours || (room && c->credit[i]));

			watch(at + 1 + i, c->streams[i], reads ? POLLIN : 0);
		}
	}
}

static void serve_all(void)
{
	struct pollfd *at = watched + 1;

	for (struct command *c = commands; c < commands + COMMANDS; c++, at += 3) {
		if (!c->pid)
			continue;
		if (at[0].revents && at[0].fd == c->in)
			feed(c);
		for (int i = 0; i < 2; i++)
			if (at[1 + i].revents && at[1 + i].fd == c->streams[i] &&
			    c->streams[i] >= 0 && (!c->is_ours || has_room()))
				drain(c, i);
	}
}

static volatile int child_died;

static void on_child(int number)
{
	(void)number;
	child_died = 1;
}

/* What a handler returns to. */
void restore_rt(void);
__asm__("restore_rt:\n"
	"	mov	$15, %eax\n" /* rt_sigreturn */
	"	syscall\n");

/* Until the line hangs up. */
static void serve(int ignore_term)
{
	unsigned long none = 0, child = 1ul << (SIGCHLD - 1);
	long patience[2] = { 0, PATIENCE_NS };
	int late = 0;

	for (unsigned int i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		if (ignore_term || (ignored[i] != SIGTERM && ignored[i] != SIGINT))
			set_action(ignored[i], SIG_IGN, NULL);
	sys(__NR_rt_sigprocmask, SIG_BLOCK, (long)&child, 0, sizeof(child), 0);
	set_action(SIGCHLD, on_child, restore_rt);
	out[out_end++] = 0; /* ends what a guest before us has left on the line */
	send(READY, 0, 0);
	for (;;) {
		if (!flush() || (send_input_credits() && !flush()))
			return;
		watch_all();
		sys(__NR_ppoll, (long)watched, 1 + 3 * COMMANDS,
		    late ? (long)patience : 0, (long)&none, sizeof(none));
		if (watched[0].revents & ~POLLOUT && !receive())
			return;
		serve_all();
		if (child_died) {
			child_died = 0;
			bury();
		}
		late = tell(late);
	}
}

/* Bytes as they are, and no delay; 0 if there is no line. */
static int open_line(const char *path)
{
	struct termios settings;
	int lines, is_uart = !path;

	line = path ? sys2(__NR_open, path, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)
		    : open_device("/dev/ttyS1", 65, 4,
				  O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	/* Root may open a UART that isn't there; all else is EIO then. */
	if (line < 0 || sys3(__NR_ioctl, line, TCGETS, &settings) < 0 ||
	    (is_uart && sys3(__NR_ioctl, line, TIOCMGET, &lines) < 0))
		return 0;
	settings.c_iflag = 0;
	settings.c_oflag = 0;
	settings.c_lflag = 0;
	settings.c_cflag = B115200 | CS8 | CREAD | CLOCAL;
	settings.c_cc[VMIN] = 1;
	settings.c_cc[VTIME] = 0;
	sys3(__NR_ioctl, line, TCSETS, &settings);
	if (is_uart)
		open_ports();
	return 1;
}

/* Stay when memory is short. */
static void survive(void)
{
	int fd = sys(__NR_openat, proc_fd, (long)OOM_SCORE, O_WRONLY, 0, 0);

	if (fd >= 0)
		sys3(__NR_write, fd, "-1000", 5);
	sys1(__NR_close, fd);
	if (sys1(__NR_mlockall, MCL_CURRENT | MCL_FUTURE) < 0)
		can_post = 0; /* a page may be gone when the host looks */
}

static void make_own_env(char **envp)
{
	const char *tunables = variable(envp, "GLIBC_TUNABLES");

	own_env[0] = "PATH=" PATHS;
	own_env[1] = "HOME=/";
	own_env[2] = "TERM=linux";
	own_env[3] = tunables;
}

/*
 * Descriptors 0 to 2 are to be something, or ours would take their numbers; 0 is what
 * commands read that have no input.
 */
static void open_standard(void)
{
	long fd;

	do
		fd = open_device("/dev/null", 3, 1, O_RDWR);
	while (fd >= 0 && fd < 3);
	if (fd > 2) {
		sys2(__NR_dup2, fd, STDIN);
		sys1(__NR_close, fd);
	}
	random_fd = open_device("/dev/urandom", 9, 1, O_WRONLY | O_CLOEXEC);
	sys1(__NR_chdir, "/");
}

int main(int argc, char **argv, char **envp)
{
	const char *path = variable(envp, "VMM_AGENT_LINE");
	int is_first = sys0(__NR_getpid) == 1;

	if (argc > 1 && !is_first)
		return tool(argv + 1);
	if (is_first) {
		begin_as_first(argv, envp);
	} else {
		open_proc();
		self_fd = sys2(__NR_open, "/proc/self/exe", O_PATH | O_CLOEXEC);
	}
	open_standard();
	if (!open_line(path ? path + sizeof("VMM_AGENT_LINE=") - 1 : NULL)) {
		put(STDERR, "vmm-agent: there is no /dev/ttyS1 (CONFIG_SERIAL_8250, and "
			    "8250.nr_uarts=2)\n");
		if (sys0(__NR_getpid) != 1)
			return 1;
		stay();
	}
	/* systemd leaves those whose name begins so, when it changes the root. */
	if (follow_init)
		argv[0][0] = '@';
	make_own_env(envp);
	survive();
	serve(is_first);
	if (sys0(__NR_getpid) == 1)
		stay();
	return 1;
}
