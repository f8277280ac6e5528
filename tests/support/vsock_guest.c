/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vsock_guest: a guest's end of connections by AF_VSOCK.
 *
 *	vsock_guest echo PORT [seqpacket]	sends each client back what it sends
 *	vsock_guest pull PORT [seqpacket]	listens, and prints what a client sends
 *	vsock_guest push PORT [seqpacket]	listens, and sends its input to a client
 *	vsock_guest call PORT [seqpacket]	sends its input to the host, prints the answer
 *	vsock_guest drop PORT			calls the host, and waits to be reset
 *	vsock_guest cid				prints the address that it has
 *
 * Of messages each that is received is printed as its size and a newline.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 18];
static int has_messages;

static struct sockaddr_vm address(unsigned int cid, const char *port)
{
	struct sockaddr_vm addr = { .svm_family = AF_VSOCK, .svm_cid = cid };

	addr.svm_port = strtoul(port, NULL, 0);
	return addr;
}

static int new_socket(void)
{
	int fd = socket(AF_VSOCK, has_messages ? SOCK_SEQPACKET : SOCK_STREAM, 0);

	if (fd < 0)
		err(1, "socket");
	return fd;
}

static int listen_at(const char *port)
{
	struct sockaddr_vm addr = address(VMADDR_CID_ANY, port);
	int fd = new_socket();

	if (bind(fd, (void *)&addr, sizeof(addr)) || listen(fd, 128))
		err(1, "port %s", port);
	return fd;
}

static int call(const char *port)
{
	struct sockaddr_vm addr = address(VMADDR_CID_HOST, port);
	int fd = new_socket();

	if (connect(fd, (void *)&addr, sizeof(addr)))
		err(1, "connect to port %s", port);
	return fd;
}

static void write_all(int to, const char *data, ssize_t size)
{
	while (size > 0) {
		ssize_t done = write(to, data, size);

		if (done < 0)
			err(1, "write");
		data += done;
		size -= done;
	}
}

/* From one to the other until there is no more; returns 0, or why there isn't. */
static int copy(int from, int to, int prints_sizes)
{
	ssize_t size;

	while ((size = read(from, buffer, sizeof(buffer))) > 0) {
		if (prints_sizes)
			dprintf(to, "%zd\n", size);
		else
			write_all(to, buffer, size);
	}
	return size < 0 ? errno : 0;
}

static void echo(const char *port)
{
	int listener = listen_at(port), client;

	while ((client = accept(listener, NULL, NULL)) >= 0) {
		if (fork() == 0) {
			copy(client, client, 0);
			exit(0);
		}
		close(client);
	}
	err(1, "accept");
}

static void print_cid(void)
{
	unsigned int cid;
	int fd = open("/dev/vsock", O_RDONLY);

	if (fd < 0 || ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid))
		err(1, "/dev/vsock");
	printf("%u\n", cid);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int fd;

	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	has_messages = argc > 3;
	if (!strcmp(what, "cid")) {
		print_cid();
	} else if (argc < 3) {
		errx(2, "see the source");
	} else if (!strcmp(what, "echo")) {
		echo(argv[2]);
	} else if (!strcmp(what, "pull")) {
		copy(accept(listen_at(argv[2]), NULL, NULL), 1, has_messages);
	} else if (!strcmp(what, "push")) {
		copy(0, accept(listen_at(argv[2]), NULL, NULL), 0);
	} else if (!strcmp(what, "call")) {
		fd = call(argv[2]);
		copy(0, fd, 0);
		shutdown(fd, SHUT_WR);
		copy(fd, 1, has_messages);
	} else if (!strcmp(what, "drop")) {
		fd = call(argv[2]);
		printf("%s\n", strerror(copy(fd, 1, 0)));
	}
	return 0;
}
