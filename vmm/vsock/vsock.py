"""Vsock: how programs of the host's reach a guest's by sockets, and are reached."""

import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from .. import threads
from ..devices.virtio.vsock import CONNECTIONS_MAX, VirtioVsock
from ..devices.virtio.vsock_connection import VsockConnection
from ..errors import ConfigError, VmmError
from ..event_loop import EventLoop
from ..result import RunResult
from .config import VsockConfig
from .hybrid import KINDS, HybridSockets
from .listener import VsockListener, offer
from .socket_end import SocketEnd, is_hung_up, make_room

RETRY_S: Final = 0.05  # between two calls at a door that isn't opened yet
ANSWER_NS: Final = 10_000_000_000
"""So long has a guest to say whether it accepts a client of a unix socket's."""
PORTS: Final = range((1 << 32) - 1)
_TYPES: Final[dict[int, int]] = {KINDS[packets]: packets for packets in KINDS}

_OnGone = Callable[[SocketEnd], None]
_MakesEnd = Callable[[VsockConnection, _OnGone], SocketEnd]


class Vsock:
    """The guest's sockets of AF_VSOCK, as `machine.vsock`; for any thread.

    The sockets that it gives are real ones, of the host's alone: they have timeouts,
    can be waited for, and go on to be of use when the machine is gone, as ones whose
    other end has hung up. A guest's reset, and going on from a snapshot, end all
    connections; those who listen go on.

    There are CONNECTIONS_MAX connections at most, for each of which BUF_ALLOC bytes of
    the guest's may wait here.
    """

    def __init__(self, loop: EventLoop, config: VsockConfig, mode: int = 0o600) -> None:
        """`mode` is that of the sockets' files. Raises ConfigError."""
        self._loop = loop
        self.device = VirtioVsock(config.cid, self)
        """What is to be plugged in."""
        self._ends: set[SocketEnd] = set()  # those of connections that are gone, too
        self._listeners: dict[tuple[int, int], socket.socket] = {}
        self._is_off = False  # no guest is there
        self._is_over = False  # and there won't be another
        self._hybrid: HybridSockets | None = None
        if config.path is not None:
            self._hybrid = HybridSockets(loop, config.path, mode, self._connect_client)

    @property
    def cid(self) -> int:
        """The guest's address."""
        return self.device.guest_cid

    def connect(
        self, port: int, kind: int = socket.SOCK_STREAM, *, timeout: float = 10
    ) -> socket.socket:
        """A socket whose other end is what the guest has accepted at `port`.

        `kind` is SOCK_STREAM or SOCK_SEQPACKET. While the guest still boots, or nobody
        listens there yet, it is tried again, `timeout` seconds long.
        Raises ConnectionRefusedError if nobody listens then, TimeoutError if the guest
        says nothing, VmmError if it has ended, and ConfigError for no such port.
        """
        packets = _type_of_packets(port, kind)
        deadline = time.monotonic() + timeout
        was_refused = False
        while True:
            attempt = _Attempt(self._loop, kind)
            if self._begin(port, packets, attempt.end):
                peer = attempt.wait(deadline)
                if peer is not None:
                    return peer
                was_refused = was_refused or attempt.is_refused
            else:
                attempt.close()
            if self._is_over:
                raise VmmError("vsock: the guest has ended")
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(RETRY_S, left))
        if was_refused:
            raise ConnectionRefusedError(
                f"vsock: nobody listens at the guest's port {port}"
            )
        raise TimeoutError(
            f"vsock: the guest hasn't answered within {timeout:g} s: has it booted, "
            "and its kernel CONFIG_VIRTIO_VSOCKETS?"
        )

    def listen(self, port: int, kind: int = socket.SOCK_STREAM) -> VsockListener:
        """Accept the guest's connections to `port`; `kind` as for `connect`.

        Raises ConfigError if somebody does so already, of this type, and VmmError if
        there is no descriptor left, or the machine is closed.
        """
        packets = _type_of_packets(port, kind)
        own, ours = _pair(socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with self.device.lock:
            trouble = ""
            if self._channel(port, packets) is not None:
                trouble = f"somebody listens at port {port} already"
            elif self._is_over:
                trouble = "the guest has ended"
            if trouble:
                own.close()
                ours.close()
                raise ConfigError(f"vsock: {trouble}")
            self._listeners[port, packets] = ours
        return VsockListener(own, self.cid, port)

    # The device's VsockHost

    def open(self, connection: VsockConnection, /) -> SocketEnd | None:
        """Whom the guest reaches at `connection.host_port`."""
        if len(self._ends) >= CONNECTIONS_MAX:
            return None
        peer = self._peer_of(connection)
        return None if peer is None else self._end(peer, connection)

    def _channel(self, port: int, kind: int) -> socket.socket | None:
        """To whoever listens there in Python, and has not closed that."""
        channel = self._listeners.get((port, kind))
        if channel is not None and is_hung_up(channel.fileno()):
            channel.close()
            del self._listeners[port, kind]
            return None
        return channel

    def _peer_of(self, connection: VsockConnection) -> socket.socket | None:
        port, kind = connection.host_port, connection.kind
        channel = self._channel(port, kind)
        if channel is None:
            return None if self._hybrid is None else self._hybrid.dial(port, kind)
        try:
            theirs, ours = _pair(KINDS[kind])
        except VmmError:
            return None
        with theirs:
            if offer(channel, theirs, connection.guest_port):
                return ours
        ours.close()
        return None

    # Connections of the host's

    def _begin(self, port: int, kind: int, end: _MakesEnd) -> bool:
        """Connect `end`, if the guest is there."""
        with self.device.working():
            if self._is_off or len(self._ends) >= CONNECTIONS_MAX:
                return False
            connection = self.device.connect(port, kind)
            if connection is None:
                return False
            connection.end = end(connection, self._ends.discard)
            self._ends.add(connection.end)
            self.device.send_of(connection)
        return True

    def _connect_client(self, port: int, kind: int, client: socket.socket, /) -> None:
        """As hybrid.Connect has it."""

        def end(connection: VsockConnection, on_gone: _OnGone) -> SocketEnd:
            greeting = b"OK %d\n" % connection.host_port
            made = SocketEnd(self._loop, client, connection, on_gone, greeting)
            when = self._loop.now_ns() + ANSWER_NS
            self._loop.call_at(when, partial(_give_up, connection))
            return made

        if not self._begin(port, kind, end):
            client.close()

    def _end(self, peer: socket.socket, connection: VsockConnection) -> SocketEnd:
        end = SocketEnd(self._loop, peer, connection, self._ends.discard)
        self._ends.add(end)
        return end

    # For the machine

    def power_on(self) -> None:
        """The guest is about to run."""
        self._is_off = False
        self.device.release()

    def power_off(self) -> None:
        """The guest is gone, and its connections with it."""
        with self.device.lock:
            self._is_off = True
            self.device.hold()
            self.device.reset()

    def hold(self) -> None:
        """The guest stands still: nothing reaches it until `go_on`."""
        self.device.hold()

    def go_on(self) -> None:
        """Undo it."""
        self.device.release()

    def end(self, result: RunResult | None) -> None:
        """The run is over; None: it isn't, after all."""
        with self.device.lock:
            self._is_over = result is not None
            if self._is_over and self._is_off:
                self._close_listeners()

    def _close_listeners(self) -> None:
        for channel in self._listeners.values():
            channel.close()
        self._listeners.clear()

    def close(self) -> None:
        """Let go of all sockets and their files; the loop has stopped. Idempotent."""
        with self.device.lock:
            self._is_off = self._is_over = True
            for end in list(self._ends):
                end.abandon()
            self._close_listeners()
        if self._hybrid is not None:
            self._hybrid.close()


class _Attempt:
    """To have the guest accept one of two sockets."""

    def __init__(self, loop: EventLoop, kind: int) -> None:
        self._loop = loop
        self._peer, self._ours = _pair(kind)
        self._changed = threading.Condition()
        self._connection: VsockConnection | None = None
        self._is_accepted = False
        self.is_refused = False
        """Whether the guest has said no."""

    def end(self, connection: VsockConnection, on_gone: _OnGone) -> SocketEnd:
        """The host's end of `connection`, which this is an attempt at."""
        self._connection = connection

        def gone(end: SocketEnd) -> None:
            on_gone(end)
            with self._changed:
                self.is_refused = True
                self._changed.notify_all()

        return SocketEnd(
            self._loop, self._ours, connection, gone, on_established=self._accepted
        )

    def _accepted(self) -> None:
        with self._changed:
            self._is_accepted = True
            self._changed.notify_all()

    def wait(self, deadline: float) -> socket.socket | None:
        """The other socket, or None: it was refused, or there was no answer in time."""
        with self._changed:
            threads.wait_for(
                self._changed,
                lambda: self._is_accepted or self.is_refused,
                deadline - time.monotonic(),
            )
            if self._is_accepted:
                return self._peer
            was_refused = self.is_refused
        self._peer.close()
        assert self._connection is not None
        self._connection.reset()
        self.is_refused = was_refused
        return None

    def close(self) -> None:
        """It doesn't even begin."""
        self._peer.close()
        self._ours.close()


def _give_up(connection: VsockConnection) -> None:
    """A guest that hasn't answered by now won't, to no client's good."""
    with connection.working():
        if not connection.is_established:
            connection.reset()


def _pair(kind: int) -> tuple[socket.socket, socket.socket]:
    try:
        pair = socket.socketpair(socket.AF_UNIX, kind)
    except OSError as error:
        raise VmmError(f"vsock: {error.strerror}") from None
    for end in pair:
        if kind == socket.SOCK_SEQPACKET:
            make_room(end)
    return pair


def _type_of_packets(port: int, kind: int) -> int:
    if port not in PORTS:
        raise ConfigError(f"vsock: port {port!r} is not within 0..{PORTS.stop - 1:#x}")
    if kind not in _TYPES:
        raise ConfigError(f"vsock: kind {kind!r} is not SOCK_STREAM or SOCK_SEQPACKET")
    return _TYPES[kind]
