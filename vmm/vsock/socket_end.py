"""SocketEnd: a connection's host side that is a unix socket."""

import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ..devices.virtio.vsock_connection import BUF_ALLOC, VsockConnection
from ..devices.virtio.vsock_packet import (
    VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE,
    VIRTIO_VSOCK_SHUTDOWN_F_SEND,
    VIRTIO_VSOCK_TYPE_SEQPACKET,
)
from ..event_loop import READ, WRITE, EventLoop

IOV_MAX: Final = 1024
CHUNK: Final = 64 << 10
MESSAGE_MAX: Final = 1 << 20
"""Bytes of a message that are read: more than a unix socket has room for."""
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class SocketEnd:
    """Passes on what a guest sends to `peer`, and what comes from there to the guest.

    What `peer` has no room for waits here, and its guest for room: BUF_ALLOC at most.
    It is passed on even if the connection is gone. Its methods for the loop take the
    device's lock, `working`; the others are called with it. It owns `peer`.
    """

    def __init__(
        self,
        loop: EventLoop,
        peer: socket.socket,
        connection: VsockConnection,
        on_gone: "Callable[[SocketEnd], object]",
        greeting: bytes = b"",
        on_established: Callable[[], None] = lambda: None,
    ) -> None:
        """`greeting` is what `peer` is told first, once there is a connection."""
        self._loop = loop
        self._peer = peer
        self._fd = peer.fileno()
        self._connection = connection
        self._on_gone = on_gone
        self._greeting = greeting
        self._on_established = on_established
        self._has_messages = connection.kind == VIRTIO_VSOCK_TYPE_SEQPACKET
        self._kept = bytearray()  # for the peer
        self._sizes: deque[int] = deque()  # of the messages in it
        self._begun = bytearray()  # a message that isn't complete
        self._input: memoryview | None = None  # the rest of a message
        self._reads = False
        self._awaits_end = False
        self._is_deaf = False  # peer takes nothing any more
        self._is_closed = False
        self._guest_shut = 0
        self._watched = 0
        peer.setblocking(False)
        if self._has_messages:
            make_room(peer)

    # The device's VsockEnd

    def established(self) -> None:
        """Both sides may send."""
        if self._greeting:
            self._send([memoryview(self._greeting)])
        self._reads = True
        self._watch()
        self._on_established()

    def take(self, views: Sequence[memoryview], *, ends_message: bool) -> int:
        """As VsockEnd has it."""
        if not self._has_messages:
            return self._pass_on(views)
        self._begun += b"".join(views)
        if not ends_message:
            return 0
        message, self._begun = self._begun, bytearray()
        return self._pass_on([memoryview(message)])

    def read_into(self, views: Sequence[memoryview]) -> tuple[int, bool] | None:
        """As VsockEnd has it."""
        if self._has_messages:
            return self._read_message(views)
        try:
            size = self._peer.recvmsg_into(views[:IOV_MAX], 0, _FLAGS)[0]
        except BlockingIOError:
            self._reads = True
            self._watch()
            return None
        except OSError:  # reset by the peer
            size = 0
        if size == 0:
            self._at_end()
            return None
        return size, False

    def hold_input(self) -> None:
        """As VsockEnd has it."""
        self._reads = False
        self._watch()

    def shut(self, flags: int) -> None:
        """As VsockEnd has it; that the guest won't send comes behind what it has."""
        if flags & ~self._guest_shut & VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE:
            self._reads = False
            self._shut_peer(socket.SHUT_RD)
        self._guest_shut |= flags
        self._shut_if_through()
        self._watch()

    def close(self) -> None:
        """As VsockEnd has it."""
        self._is_closed = True
        self._reads = self._awaits_end = False
        if not self._kept:
            self._leave()
        else:
            self._watch()

    def abandon(self) -> None:
        """Close it at once."""
        self._kept.clear()
        self._sizes.clear()
        self.close()

    # Towards the peer

    def _pass_on(self, views: Sequence[memoryview]) -> int:
        """Send it, or keep it; how many bytes needn't be kept.

        An empty message is left out: for a reader it would be the end.
        """
        size = sum(map(len, views))
        if self._is_deaf or not size:
            return size
        sent = 0 if self._kept else self._send(views)
        if sent < size:
            self._kept += b"".join(views)[sent:]
            if self._has_messages:
                self._sizes.append(size)
            self._watch()
        return sent

    def _send(self, views: Sequence[memoryview]) -> int:
        """How many bytes the peer takes, all of them if it takes no more at all."""
        if len(views) > IOV_MAX:
            views = [memoryview(b"".join(views))]
        try:
            return self._peer.sendmsg(views, (), _FLAGS)
        except BlockingIOError:
            return 0
        except OSError:  # it is gone, or has no room for such a message, ever
            self._stop_passing_on()
            return sum(map(len, views))

    def _stop_passing_on(self) -> None:
        """The peer takes no more: neither does the host, of this connection."""
        self._is_deaf = True
        self._connection.shut(VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE)

    def _pass_on_kept(self) -> None:
        done = 0
        while self._kept:
            size = self._sizes[0] if self._sizes else CHUNK
            piece = memoryview(bytes(self._kept[:size]))
            sent = len(self._kept) if self._is_deaf else self._send([piece])
            del self._kept[:sent]
            done += sent
            if sent < len(piece):
                break
            if self._sizes:
                self._sizes.popleft()
        if done:
            self._connection.passed_on(done)
        self._shut_if_through()

    def _shut_if_through(self) -> None:
        if self._guest_shut & VIRTIO_VSOCK_SHUTDOWN_F_SEND and not self._kept:
            self._shut_peer(socket.SHUT_WR)

    def _shut_peer(self, how: int) -> None:
        try:
            self._peer.shutdown(how)
        except OSError:  # it is gone already
            return

    # From the peer

    def _read_message(self, views: Sequence[memoryview]) -> tuple[int, bool] | None:
        if self._input is None:
            try:
                message = self._peer.recv(MESSAGE_MAX, _FLAGS)
            except BlockingIOError:
                self._reads = True
                self._watch()
                return None
            except OSError:
                message = b""
            if not message:
                self._at_end()
                return None
            self._input = memoryview(message)
        rest, size = self._input, 0
        for view in views:
            part = rest[size : size + len(view)]
            view[: len(part)] = part
            size += len(part)
        self._input = rest[size:] if size < len(rest) else None
        return size, self._input is None

    def _at_end(self) -> None:
        """The peer won't send any more, and may not receive any more either."""
        self._reads = False
        if is_hung_up(self._fd):
            self._hang_up()
        else:
            self._awaits_end = True
            self._watch()
            self._connection.shut(VIRTIO_VSOCK_SHUTDOWN_F_SEND)

    def _hang_up(self) -> None:
        self._awaits_end = False
        self._watch()
        self._connection.shut(
            VIRTIO_VSOCK_SHUTDOWN_F_SEND | VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE
        )

    # On the loop

    def _watch(self) -> None:
        """Be told of what is waited for, and of nothing else."""
        if self._loop.is_own_thread():
            self._watch_now()
        else:
            self._loop.call_soon(self._watch_locked)

    def _watch_locked(self) -> None:
        with self._connection.working():
            self._watch_now()

    def _watch_now(self) -> None:
        if self._fd < 0:
            return
        events = (READ if self._reads else 0) | (WRITE if self._kept else 0)
        wanted = events or (select.EPOLLHUP if self._awaits_end else 0)
        if wanted == self._watched:
            return
        self._watched = wanted
        if wanted:
            self._loop.watch(self._fd, wanted, self._on_ready)
        else:
            self._loop.unwatch(self._fd)

    def _on_ready(self) -> None:
        with self._connection.working():
            if self._fd < 0:
                return
            if self._kept:
                self._pass_on_kept()
            if self._reads:
                self._connection.readable()
            elif self._awaits_end and is_hung_up(self._fd):
                self._hang_up()
            if self._is_closed and not self._kept:
                self._leave()
            self._watch_now()

    def _leave(self) -> None:
        if self._fd < 0:
            return
        self._fd = -1
        self._loop.forget(self._peer.fileno(), self._peer.close)
        self._on_gone(self)


def make_room(peer: socket.socket) -> None:
    """Have it send messages of BUF_ALLOC bytes, if the host lets it."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * BUF_ALLOC)


def is_hung_up(fd: int) -> bool:
    """Whether a socket's peer neither sends nor receives any more."""
    poller = select.poll()
    poller.register(fd, 0)  # hang-up and error are reported regardless
    return bool(poller.poll(0))
