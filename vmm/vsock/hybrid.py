"""HybridSockets: unix sockets by which programs of the host's and a guest's meet.

The scheme is Firecracker's, docs/vsock.md, with SOCK_SEQPACKET added.
"""

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Protocol

from ..console.socket_file import ListeningSocket
from ..devices.virtio.vsock_packet import (
    VIRTIO_VSOCK_TYPE_SEQPACKET,
    VIRTIO_VSOCK_TYPE_STREAM,
)
from ..event_loop import READ, EventLoop

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS: Final = {
    VIRTIO_VSOCK_TYPE_STREAM: socket.SOCK_STREAM,
    VIRTIO_VSOCK_TYPE_SEQPACKET: socket.SOCK_SEQPACKET,
}
"""Types of sockets by those of the packets."""
SUFFIXES: Final = {
    VIRTIO_VSOCK_TYPE_STREAM: "",
    VIRTIO_VSOCK_TYPE_SEQPACKET: "_seqpacket",
}
ORDER_MAX: Final = 32
"""Bytes of "CONNECT port" and a newline."""
CLIENTS_MAX: Final = 64
"""Clients that haven't said yet what they want; one more is hung up on."""
RETRY_NS: Final = 100_000_000  # where there is no descriptor left for a client


class Connect(Protocol):
    """Connects a client to a port of the guest's; it is closed if that can't be."""

    def __call__(self, port: int, kind: int, client: socket.socket, /) -> None: ...


class HybridSockets:
    """Those at `path`; all methods are for the loop's thread, but for `close`.

    `mode` is that of the files: who may connect. Raises ConfigError if it can't listen.
    """

    def __init__(self, loop: EventLoop, path: str, mode: int, connect: Connect) -> None:
        self._loop = loop
        self._path = path
        self._connect = connect
        self._clients: set[_Client] = set()
        listeners: dict[int, ListeningSocket] = {}
        with ExitStack() as stack:
            for kind, suffix in SUFFIXES.items():
                listeners[kind] = ListeningSocket(
                    path + suffix, mode, field="vsock", kind=KINDS[kind]
                )
                stack.callback(listeners[kind].close)
            self._cleanup = stack.pop_all()
        for kind, listener in listeners.items():
            self._listen(listener, kind)

    def _listen(self, listener: ListeningSocket, kind: int) -> None:
        fd = listener.socket.fileno()
        if fd >= 0:
            self._loop.watch(fd, READ, lambda: self._on_client(listener, kind))

    def _on_client(self, listener: ListeningSocket, kind: int) -> None:
        try:
            client, _ = listener.socket.accept()
        except (BlockingIOError, ConnectionError):  # it went away before we came
            return
        except OSError:  # there is no descriptor, or no memory
            self._loop.unwatch(listener.socket.fileno())
            again = self._loop.now_ns() + RETRY_NS
            self._loop.call_at(again, lambda: self._listen(listener, kind))
            return
        if len(self._clients) >= CLIENTS_MAX:
            client.close()
            return
        self._clients.add(_Client(self._loop, client, kind, self._on_order))

    def _on_order(self, client: "_Client", port: int | None) -> None:
        """It has said which port it wants, or it wants none."""
        self._clients.discard(client)
        if port is None:
            client.socket.close()
        else:
            self._connect(port, client.kind, client.socket)

    def dial(self, port: int, kind: int) -> socket.socket | None:
        """Whoever listens for the guest's connections to `port`; None if nobody."""
        try:
            peer = socket.socket(socket.AF_UNIX, KINDS[kind] | socket.SOCK_NONBLOCK)
        except OSError:  # there is no descriptor left
            return None
        try:
            peer.connect(f"{self._path}_{port}")
        except OSError:  # there is no such file, nobody serves it, or not this type
            peer.close()
            return None
        return peer

    def close(self) -> None:
        """Let go of all files and clients; the loop has stopped. Idempotent."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self._cleanup.close()


class _Client:
    """One that is to say "CONNECT port" and a newline; what follows isn't ours."""

    def __init__(
        self,
        loop: EventLoop,
        client: socket.socket,
        kind: int,
        on_order: "Callable[[_Client, int | None], None]",
    ) -> None:
        self.socket = client
        self.kind = kind
        self._loop = loop
        self._on_order = on_order
        self._order = b""
        client.setblocking(False)
        loop.watch(client.fileno(), READ, self._on_readable)

    def _on_readable(self) -> None:
        try:
            self._order += self._read()
        except BlockingIOError:
            return
        except OSError:
            self._order = b"\n"
        if self._order.endswith(b"\n") or len(self._order) >= ORDER_MAX:
            self._loop.unwatch(self.socket.fileno())
            self._on_order(self, _port(self._order))

    def _read(self) -> bytes:
        """No more than the line's rest; of a client that has gone, an empty line."""
        room = ORDER_MAX - len(self._order)
        if self.kind == VIRTIO_VSOCK_TYPE_SEQPACKET:
            return self.socket.recv(ORDER_MAX) or b"\n"
        ahead = self.socket.recv(room, socket.MSG_PEEK)
        return self.socket.recv(ahead.find(b"\n") + 1 or len(ahead) or 1) or b"\n"

    def close(self) -> None:
        self._loop.unwatch(self.socket.fileno())
        self.socket.close()


def _port(order: bytes) -> int | None:
    words = order.split()
    if len(words) != 2 or words[0].upper() != b"CONNECT" or not words[1].isdigit():
        return None
    port = int(words[1])
    return port if port < (1 << 32) - 1 else None
