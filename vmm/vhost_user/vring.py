"""Vring: a queue of the device, and how the front end and it reach each other."""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ..devices.errors import BrokenRing, InvalidState, NotRam
from ..devices.virtio.features import VIRTIO_F_RING_PACKED
from ..devices.virtio.queue import Virtqueue
from ..event_loop import READ
from .protocol import ProtocolError

if TYPE_CHECKING:
    from ..event_loop import EventLoop
    from .shared_ram import SharedRam

MOST_ENTRIES: Final = 1024  # of a ring whose device has fewer; as QEMU's own backends
_ONE: Final = (1).to_bytes(8, "little")
_NONE: Final = -1
_EVENT_KINDS: Final = (0, stat.S_IFIFO, stat.S_IFSOCK)  # an eventfd's is none


class Vring:
    """One ring, which is stopped, or started by a kick descriptor.

    Only one that is enabled as well is to be served. All on the loop's thread.
    """

    def __init__(
        self, queue: Virtqueue, loop: "EventLoop", on_kick: Callable[[], None]
    ) -> None:
        self.queue: Final = queue
        # No message tells a front end what we have: QEMU's disk comes with 128 entries.
        queue.max_size = max(queue.max_size, MOST_ENTRIES)
        self.is_enabled = False
        self.goes_on = False
        """Whether it was started where it had stopped."""
        self.is_paused = False
        """Whether it had stopped when all had, and was not started since."""
        self._loop = loop
        self._on_kick = on_kick
        self._kick_fd = self._call_fd = self._err_fd = _NONE
        self._stopped_at: int | None = None
        self._forget()

    def _forget(self) -> None:
        self.num = self.queue.max_size
        self.base: int | None = None
        self.user_addrs: tuple[int, int, int] | None = None
        """Of descriptors, used ring, available ring; the front end's."""

    @property
    def is_started(self) -> bool:
        return self.queue.is_enabled

    def start(self, ram: "SharedRam", features: int) -> None:
        """Let the queue be what the front end has set up. Raises ProtocolError."""
        queue = self.queue
        if self.user_addrs is None:
            raise ProtocolError(f"ring {queue.index} has no addresses")
        queue.size = self.num
        queue.desc, queue.device, queue.driver = map(ram.guest_addr, self.user_addrs)
        start = self._start(ram, bool(features >> VIRTIO_F_RING_PACKED & 1))
        try:
            queue.enable(ram, features, start)
        except BrokenRing as error:
            raise ProtocolError(str(error)) from None

    def _start(self, ram: "SharedRam", is_packed: bool) -> tuple[int, int] | None:
        self.goes_on = self.base is not None and self.base == self._stopped_at
        if self.base is None:
            return None
        if is_packed:
            return self.base & 0xFFFF, self.base >> 16
        try:  # the base is the available index alone
            used_idx: int = ram.view(self.queue.device + 2, 2).cast("H")[0]
        except NotRam:
            used_idx = 0  # and the ring is refused as a whole
        return self.base & 0xFFFF, used_idx

    def start_again(self, ram: "SharedRam", features: int) -> None:
        """Go on, in memory that was mapped anew. Raises ProtocolError."""
        state = self.queue.state()
        try:
            self.queue.restore(state, ram, features)
        except InvalidState as error:
            raise ProtocolError(str(error)) from None

    def stop(self, is_packed: bool) -> int:
        """Stop; returns the base to go on from. Interrupts stay connected."""
        if self.is_started:
            next_avail, next_used = self.queue.position()
            self.base = next_avail | (next_used << 16 if is_packed else 0)
        base = self.base
        self.reset()
        self._stopped_at = base
        return base or 0

    def pause(self) -> None:
        """No ring is started any more."""
        self.is_paused = self._stopped_at is not None

    def reset(self) -> None:
        """Be as a new ring, but for its descriptors of interrupts."""
        self.queue.reset()
        self.set_kick(_NONE)
        self.is_enabled = self.is_paused = False
        self._stopped_at = None
        self._forget()

    def set_kick(self, fd: int) -> None:
        """Be served whenever `fd` is readable; it is ours from now on.

        Raises ProtocolError for one that epoll doesn't take.
        """
        old, self._kick_fd = self._kick_fd, fd
        if old >= 0:
            self._loop.unwatch(old)
            os.close(old)
        if fd >= 0:
            try:
                self._loop.watch(fd, READ, self._kicked)
            except OSError as error:  # of epolls in epolls, which may be no ring
                raise ProtocolError(
                    f"it can't be waited for: {error.strerror}"
                ) from None

    def _kicked(self) -> None:
        try:
            kick = os.read(self._kick_fd, 8)
        except BlockingIOError:
            return
        except OSError:
            kick = b""
        if kick:
            self._on_kick()
        else:  # the end of a pipe, which would be readable for ever
            self.set_kick(_NONE)

    def set_call(self, fd: int) -> None:
        """Write to `fd` to interrupt the driver; it is ours from now on."""
        _close(self._call_fd)
        self._call_fd = fd

    def set_err(self, fd: int) -> None:
        """Write to `fd` when the device has stopped; it is ours from now on."""
        _close(self._err_fd)
        self._err_fd = fd

    def call(self) -> None:
        _write(self._call_fd)

    def err(self) -> None:
        _write(self._err_fd)

    def close(self) -> None:
        self.set_kick(_NONE)
        self.set_call(_NONE)
        self.set_err(_NONE)


def check_event_fd(fd: int) -> None:
    """Raises ProtocolError for a descriptor that nobody could wait for."""
    kind = stat.S_IFMT(os.fstat(fd).st_mode)
    if kind not in _EVENT_KINDS:
        raise ProtocolError("a file instead of an eventfd")
    try:
        os.set_blocking(fd, False)
    except OSError as error:  # of one that was opened by O_PATH
        raise ProtocolError(f"no eventfd: {error.strerror}") from None


def _write(fd: int) -> None:
    if fd >= 0:
        with suppress(OSError):  # it is full, and so says enough, or nobody reads it
            os.write(fd, _ONE)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
