"""StreamLink: frames over a stream socket, each behind its length in four bytes.

That is how QEMU's `-netdev stream` and passt speak. Source: QEMU net/stream.c.
"""

import os
import socket
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Final

from ..console.socket_file import ListeningSocket
from ..devices.virtio.net import FRAME_MAX, FRAME_MIN
from ..event_loop import READ, WRITE, EventLoop
from .inlet import Inlet

if TYPE_CHECKING:
    from ..devices.clock import Clock
    from ..devices.virtio.net import VirtioNet

LENGTH: Final = Struct(">I")
BUFFER: Final = 256 << 10
PIECES_MAX: Final = 64
"""Of a frame that are sent as they are; more are joined before."""
RETRY_NS: Final = 100_000_000  # where there is no descriptor left for a peer


class StreamLink:
    """A NetLink to whom `connect` has given a socket to; down while there is nobody.

    A peer that goes, or says what is no frame, is let go: `on_gone` is called.
    """

    has_header = False

    def __init__(
        self,
        loop: EventLoop,
        clock: "Clock",
        on_gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._on_gone = on_gone
        self._card: VirtioNet | None = None
        self._peer: socket.socket | None = None
        self._own = -1  # the peer's, for the other direction
        self._inlet: Inlet | None = None
        self._buffer = bytearray(BUFFER)
        self._start = self._end = 0  # what of it was received, and not taken yet
        self._rest = b""

    def connect(self, peer: socket.socket) -> None:
        """Have this peer; on the loop's thread, or before it runs. Raises OSError."""
        peer.setblocking(False)
        self._own = os.dup(peer.fileno())
        self._peer = peer
        self._start = self._end = 0
        self._rest = b""
        self._inlet = Inlet(self._loop, self._clock, peer.fileno(), self._on_readable)
        self._tell_change()

    def _on_readable(self) -> None:
        if self._card is not None:
            self._card.on_frames()

    def _tell_change(self) -> None:
        if self._card is not None:
            self._clock.call_at(0, self._card.link_changed)

    def hang_up(self) -> None:
        """Let the peer go, if there is one. From any thread, with the card's lock."""
        peer, self._peer = self._peer, None
        if peer is None or self._inlet is None:
            return
        self._inlet.close(peer.close)
        own = self._own
        self._loop.forget(own, lambda: os.close(own))
        self._rest = b""
        self._tell_change()
        self._on_gone()

    def close(self) -> None:
        """For good. Idempotent."""
        self._on_gone = lambda: None
        self._card = None
        self.hang_up()

    # As a NetLink

    @property
    def is_up(self) -> bool:
        return self._peer is not None

    def attach(self, card: "VirtioNet") -> None:
        self._card = card

    def set_offloads(self, features: int) -> None:
        """It has none."""

    def is_full(self) -> bool:
        return bool(self._rest)

    def send(self, frame: list[memoryview]) -> None:
        if self._peer is None:
            return
        size = sum(map(len, frame))
        parts: list[bytes | memoryview] = [LENGTH.pack(size), *frame]
        if len(parts) > PIECES_MAX:
            parts = [b"".join(parts)]
        sent = self._try(lambda peer: peer.sendmsg(parts))
        if sent < LENGTH.size + size and self._peer is not None:
            self._rest = b"".join(parts)[sent:]
            self._call(self._wait_for_room)

    def _try(self, send: Callable[[socket.socket], int]) -> int:
        """How much was sent; a peer that isn't there any more is let go."""
        assert self._peer is not None
        try:
            return send(self._peer)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self.hang_up()
            return 0

    def _call(self, callback: Callable[[], None]) -> None:
        if self._loop.is_own_thread():
            callback()
        else:
            self._loop.call_soon(callback)

    def _wait_for_room(self) -> None:
        if self._peer is not None and self._rest:
            self._loop.watch(self._own, WRITE, self._on_writable)

    def _on_writable(self) -> None:
        card = self._card
        if card is None:
            return
        with card.lock:
            if self._peer is not None and self._rest:
                self._rest = self._rest[self._try(lambda p: p.send(self._rest)) :]
            if self._rest:
                return
            if self._peer is not None:
                self._loop.unwatch(self._own)
        self._clock.call_at(0, card.on_room)

    def receive(self) -> bytes | None:
        while self._peer is not None:
            frame = self._next()
            if frame is not None:
                return frame
            if self._peer is not None and not self._read():
                break
        return None

    def _next(self) -> bytes | None:
        """The first frame that is there as a whole."""
        while self._end - self._start >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._buffer, self._start)
            if size > FRAME_MAX:  # whatever it speaks, these aren't frames
                self.hang_up()
                return None
            start = self._start + LENGTH.size
            if self._end - start < size:
                return None
            self._start = start + size
            if size >= FRAME_MIN:
                return bytes(memoryview(self._buffer)[start : self._start])
        return None

    def _read(self) -> bool:
        """Whether there was more."""
        assert self._peer is not None
        if self._start:
            left = self._buffer[self._start : self._end]
            self._buffer[: len(left)] = left
            self._start, self._end = 0, len(left)
        try:
            size = self._peer.recv_into(memoryview(self._buffer)[self._end :])
        except (BlockingIOError, InterruptedError):
            assert self._inlet is not None
            self._inlet.ask()
            return False
        except OSError:
            size = 0
        if not size:
            self.hang_up()
            return False
        self._end += size
        return True


class UnixLink(StreamLink):
    """One on a unix socket that we listen on, for one peer at a time.

    Another one is hung up on. Raises ConfigError, which names `nets`.
    """

    def __init__(self, loop: EventLoop, clock: "Clock", path: str) -> None:
        super().__init__(loop, clock)
        self._listener = ListeningSocket(path, field="unix")
        self._listen()

    def _listen(self) -> None:
        fd = self._listener.socket.fileno()
        if fd >= 0:
            self._loop.watch(fd, READ, self._on_connect)

    def _on_connect(self) -> None:
        try:
            peer, _ = self._listener.socket.accept()
        except (BlockingIOError, ConnectionError):  # it went away before we came
            return
        except OSError:  # there is no descriptor, or no memory
            self._wait()
            return
        card = self._card
        if card is None:
            peer.close()
            return
        with card.lock:
            if self._peer is not None and _has_gone(self._peer):
                self.hang_up()
            if self._peer is not None:
                peer.close()
                return
            try:
                self.connect(peer)
            except OSError:
                peer.close()
                self._wait()

    def _wait(self) -> None:
        self._loop.unwatch(self._listener.socket.fileno())
        self._loop.call_at(self._loop.now_ns() + RETRY_NS, self._listen)

    def close(self) -> None:
        super().close()
        fd = self._listener.socket.fileno()
        if fd >= 0:
            self._loop.forget(fd, self._listener.close)


def _has_gone(peer: socket.socket) -> bool:
    """Whether it has closed, and left nothing to be read."""
    try:
        return not peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
