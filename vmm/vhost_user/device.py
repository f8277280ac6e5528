"""VhostUserDevice: a virtio device whose queues another process serves."""

import os
import select
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from ..devices.errors import DeviceError
from ..devices.virtio.device import VirtioDevice
from ..devices.virtio.features import (
    VIRTIO_F_EVENT_IDX,
    VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_VERSION_1,
)
from ..errors import ConfigError, VmmError
from ..event_loop import READ
from ..eventfd import EventFd
from ..field_types import StrPath
from . import protocol
from .front_end import FrontEnd
from .protocol import Channel, ProtocolError

if TYPE_CHECKING:
    from ..devices.virtio.queue import Virtqueue
    from ..event_loop import EventLoop
    from ..memory import GuestMemory

DRAIN_S: Final = 10.0
"""For what is under way in a backend when its rings are stopped."""
_DRAIN_LOOK_S: Final = 0.001
_GONE: Final = "its backend has gone"
_OWN_BITS: Final = ((1 << 24) - 1) | ((1 << 64) - (1 << 50))
_OFFERED: Final = (
    _OWN_BITS
    | 1 << VIRTIO_F_INDIRECT_DESC
    | 1 << VIRTIO_F_EVENT_IDX
    | 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_F_RING_PACKED
)
"""What of a backend's features can be passed on."""
_FIRST_PACKED: Final = 0x8000_8000  # both wrap counters begin with 1


class BackendProgram(Protocol):
    """What is at the other end of the sockets that it gives."""

    def connect(self) -> socket.socket:
        """A new connection. Raises VmmError, OSError."""

    def last_words(self) -> str:
        """Why it has ended, if it is known; after a connection's end."""

    def close(self) -> None:
        """It isn't needed any more. Idempotent."""


class BackendSocket:
    """A backend that somebody else has started, which listens at `path`."""

    def __init__(self, path: StrPath) -> None:
        self._path = path

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(os.fspath(self._path))
        except OSError as error:
            sock.close()
            what = error.strerror or str(error)
            raise ConfigError(f"vhost-user: {str(self._path)!r}: {what}") from None
        return sock

    def last_words(self) -> str:
        return ""

    def close(self) -> None:
        pass


class VhostUserDevice(VirtioDevice):
    """A device of a type, at the other end of a Unix socket that somebody listens at.

    `backend` is its path, or a BackendProgram. `queue_sizes` is how many queues there
    are, with how many entries at most. Of the backend's configuration space it has the
    first `config_size` bytes, or `config`, where the backend has none.

        machine.plug(VhostUserDevice(2, "/run/disk.sock", config_size=60))

    The guest's RAM is shared with the backend, so that there are no snapshots of the
    machine, and kicks and calls go by KVM from one to the other: nothing of ours is on
    the way. If the backend goes, the device needs a reset, by which it is connected
    again where the backend can be.
    Raises ConfigError, or VmmError, if nobody is there who speaks vhost-user.
    """

    is_elsewhere = True
    drains: bool = False
    """Whether it answers each request soon, so that a stop can wait for that."""
    resumes: bool = False
    """Whether another backend can go on in the place of one that is gone: each ring's
    requests are done in their order, and it does no harm if some are done twice."""

    def __init__(
        self,
        device_type: int,
        backend: "StrPath | BackendProgram",
        *,
        queue_sizes: Sequence[int] = (256,),
        config_size: int = 0,
        config: bytes | None = None,
        name: str = "",
    ) -> None:
        self.device_type = device_type  # type: ignore[misc]
        self.queue_sizes = queue_sizes
        self._name = name or f"vhost-user device of type {device_type}"
        if isinstance(backend, str | os.PathLike):
            backend = BackendSocket(backend)
        self._backend = backend
        self._config_size = config_size if config is None else 0
        self._config = config or b""
        self._memory: GuestMemory | None = None
        self._loop: EventLoop | None = None
        self._requests: Channel | None = None
        self._is_closed = False
        self._started: set[Virtqueue] = set()
        self._held: dict[Virtqueue, int] = {}
        self._front_end: FrontEnd | None = self._connect()
        self._features = self._front_end.features
        super().__init__()
        self._kicks = [EventFd() for _ in self.queues]
        self._calls = [_Call(self, queue) for queue in self.queues]
        self._err = EventFd()

    def _connect(self) -> FrontEnd:
        """Raises VmmError."""
        try:
            front_end = FrontEnd(self._backend.connect())
            try:
                self._look_at(front_end)
            except BaseException:
                front_end.close()
                raise
        except EOFError:
            why = self._backend.last_words() or _GONE
            raise ConfigError(f"{self._name}: {why}") from None
        except ProtocolError as error:
            raise ConfigError(
                f"{self._name}: its backend doesn't work: {error}"
            ) from None
        return front_end

    def _look_at(self, front_end: FrontEnd) -> None:
        most = front_end.queue_num()
        if most is not None and most < len(self.queue_sizes):
            raise ProtocolError(f"{len(self.queue_sizes)} queues, and it has {most}")
        if self._config_size:
            if not front_end.has(protocol.PROTOCOL_F_CONFIG):
                raise ProtocolError("it has no configuration space")
            self._config = front_end.config(self._config_size)

    @property
    def name(self) -> str:
        return self._name

    # The machine's side

    def join(self, memory: "GuestMemory", loop: "EventLoop") -> None:
        """Be of a machine, before it starts. Raises VmmError."""
        memory.share()
        self._memory, self._loop = memory, loop
        loop.watch(self._err.fd, READ, self._on_err)
        for call in self._calls:
            call.relay(True)
        self._watch()

    def hold(self) -> None:
        """Let nothing happen, once no vCPU runs; what is under way ends before."""
        with self.lock:
            if self.is_active:
                self._held = self._stop_queues()

    def go_on(self) -> None:
        """Undo it."""
        with self.lock:
            held, self._held = self._held, {}
            if not self.is_active or self._front_end is None:
                return
            try:
                for queue, base in held.items():
                    self._start_queue(self._front_end, queue, base)
                    self._calls[queue.index].event.signal()  # which may have been lost
            except (ProtocolError, EOFError) as error:
                self._lose(error)

    def close(self) -> None:
        """End the connection, and the backend. Idempotent."""
        with self.lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._disconnect()
            for event in (*self._kicks, *(call.event for call in self._calls)):
                event.close()
            self._err.close()
        self._backend.close()

    # VirtioDevice

    @property
    def offered(self) -> int:
        return self._features & _OFFERED

    def config(self) -> bytes:
        return self._config

    def write_config(self, offset: int, data: bytes) -> None:
        if self._front_end is None or not self._config_size:
            return
        try:
            self._front_end.write_config(offset, data)
            self._config = self._front_end.config(self._config_size)
        except (ProtocolError, EOFError) as error:
            self._lose(error)

    def activate(self) -> None:
        try:
            front_end = self._front_end or self._connect_again()
            self._hand_over(
                front_end, {queue: None for queue in self.queues if queue.is_enabled}
            )
        except (VmmError, EOFError) as error:
            self._disconnect()
            raise DeviceError(f"{_GONE}: {error}") from None

    def _hand_over(
        self, front_end: FrontEnd, bases: "Mapping[Virtqueue, int | None]"
    ) -> None:
        """All that the driver has set up, its queues from where they go on."""
        assert self._memory is not None
        front_end.set_features(self.negotiated)
        front_end.set_memory(self._memory)
        for queue, base in bases.items():
            self._start_queue(front_end, queue, base)

    def handle(self, queue: "Virtqueue") -> None:
        self._kicks[queue.index].signal()

    def kick_fd(self, queue: "Virtqueue") -> int:
        return self._kicks[queue.index].fd

    def call_signal(self, queue: "Virtqueue") -> "_Call":
        return self._calls[queue.index]

    def reset_queue(self, queue: "Virtqueue") -> None:
        self._stop_queues(queue)

    def reset(self) -> None:
        was_started = bool(self._started or self._held)
        self._stop_queues()
        self._held = {}
        if was_started and self._front_end is not None:
            try:
                self._front_end.reset_device()
            except (ProtocolError, EOFError) as error:
                self._lose(error)
        for event in (*self._kicks, *(call.event for call in self._calls)):
            event.drain()

    # Queues

    def _start_queue(
        self, front_end: FrontEnd, queue: "Virtqueue", base: int | None = None
    ) -> None:
        if base is None:
            base = _FIRST_PACKED if self.has(VIRTIO_F_RING_PACKED) else 0
        areas = queue.desc, queue.device, queue.driver
        desc, device, driver = map(self._user_addr, areas)
        front_end.set_vring(queue.index, queue.size, base, (desc, device, driver))
        kick = self._kicks[queue.index]
        call_fd = self._calls[queue.index].fd
        front_end.start_vring(queue.index, call_fd, self._err.fd, kick.fd)
        self._started.add(queue)
        kick.signal()  # for what was made available before

    def _user_addr(self, guest_addr: int) -> int:
        """As the backend is told it; the queue has checked that it is RAM."""
        assert self._memory is not None
        for region in self._memory.regions:
            if 0 <= guest_addr - region.guest_addr < region.size:
                start = self._memory.host_addr(region)
                return start + guest_addr - region.guest_addr
        raise ProtocolError(f"{guest_addr:#x} is no RAM")

    def _stop_queues(self, only: "Virtqueue | None" = None) -> "dict[Virtqueue, int]":
        """Where each goes on from; on return no request of theirs is under way."""
        bases: dict[Virtqueue, int] = {}
        front_end = self._front_end
        if front_end is None:
            return bases
        try:
            for queue in self.queues:
                if queue in self._started and only in (None, queue):
                    self._started.remove(queue)
                    bases[queue] = front_end.stop_vring(queue.index)
        except (ProtocolError, EOFError) as error:
            self._lose(error)
        self._drain(bases)
        return bases

    def _drain(self, bases: "dict[Virtqueue, int]") -> None:
        """Wait until all is used that the backend has taken.

        qemu-storage-daemon goes on with what it has after a ring was stopped: 7.2's
        libvhost-user only lets go of the ring's descriptors.
        """
        if not self.drains or self.has(VIRTIO_F_RING_PACKED):
            return
        end = time.monotonic() + DRAIN_S  # a guest may have written anything there
        for queue, base in bases.items():
            while self._used_idx(queue) != base & 0xFFFF and time.monotonic() < end:
                time.sleep(_DRAIN_LOOK_S)

    def _used_idx(self, queue: "Virtqueue") -> int:
        """How many requests of a split ring are answered, modulo 65536."""
        assert self._memory is not None
        return self._memory.view(queue.device + 2, 2).cast("H")[0]

    # The connection

    def _watch(self) -> None:
        """Learn of its end, and of what the backend has to say."""
        loop, front_end = self._loop, self._front_end
        if loop is None or front_end is None:
            return
        loop.watch(front_end.fileno(), select.EPOLLRDHUP, self._on_end)
        if not front_end.has(protocol.PROTOCOL_F_BACKEND_REQ):
            return
        ours, theirs = socket.socketpair()
        with theirs:
            self._requests = Channel(ours)
            front_end.take_requests(theirs.fileno())
        loop.watch(ours.fileno(), READ, self._on_request)

    def _connect_again(self) -> FrontEnd:
        front_end = self._front_end = self._connect()
        if self._features & _OFFERED & ~front_end.features:
            raise ProtocolError("it offers less than it did")
        assert self._loop is not None
        # Its descriptors are watched on the loop's thread.
        self._loop.call_soon(self._watch_again)
        return front_end

    def _watch_again(self) -> None:
        with self.lock:
            try:
                self._watch()
            except (ProtocolError, EOFError) as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        """The backend is gone, or as good as that."""
        if self._front_end is None:
            return
        started = [queue for queue in self.queues if queue in self._started]
        is_end = isinstance(error, EOFError)
        self._disconnect()
        words = self._backend.last_words() if is_end else str(error)
        why = f"{_GONE}: {words}" if words else _GONE
        if started and self.is_active and self._resume(started):
            self.report(f"{why}; it was started again")
        else:
            self.fail(why)

    def _resume(self, queues: "Iterable[Virtqueue]") -> bool:
        """Have another backend go on with what wasn't answered; whether it does."""
        if not self.resumes or self.has(VIRTIO_F_RING_PACKED):
            return False
        try:
            bases = {queue: self._used_idx(queue) for queue in queues}
            self._hand_over(self._connect_again(), bases)
        except (VmmError, EOFError):
            self._disconnect()
            return False
        for queue in queues:
            self._calls[queue.index].event.signal()  # which may have been lost
        return True

    def _disconnect(self) -> None:
        self._started.clear()
        self._held = {}
        front_end, self._front_end = self._front_end, None
        requests, self._requests = self._requests, None
        for closed in front_end, requests:
            if closed is None:
                continue
            if self._loop is None or self._is_closed:
                closed.close()
            else:
                self._loop.forget(closed.fileno(), closed.close)

    def _on_end(self) -> None:
        with self.lock:
            self._lose(EOFError())

    def _on_err(self) -> None:
        self._err.drain()
        with self.lock:
            if self.is_active:
                self.fail("its backend has stopped: its driver breaks the rules")

    def _on_request(self) -> None:
        with self.lock:
            if self._requests is None:
                return
            try:
                while (message := self._requests.receive()) is not None:
                    self._answer(message)
            except EOFError:
                assert self._loop is not None
                requests, self._requests = self._requests, None
                self._loop.forget(requests.fileno(), requests.close)
            except ProtocolError as error:
                self._lose(error)

    def _answer(self, message: protocol.Message) -> None:
        message.close()
        is_known = message.request == protocol.BACKEND_CONFIG_CHANGE_MSG
        # Before we ask it anything, as it may wait for that.
        if message.flags & protocol.NEED_REPLY and self._requests is not None:
            reply = protocol.U64.pack(not is_known)
            self._requests.send(message.request, protocol.REPLY, reply)
        if is_known and self._config_size and self._front_end is not None:
            try:
                self._config = self._front_end.config(self._config_size)
            except EOFError as error:
                self._lose(error)
                return
            self.config_changed()


class _Call:
    """What a backend signals for an interrupt: a devices.Signal."""

    def __init__(self, device: VhostUserDevice, queue: "Virtqueue") -> None:
        self.event = EventFd()
        self._device = device
        self._queue = queue

    @property
    def fd(self) -> int:
        return self.event.fd

    def relay(self, is_wanted: bool, /) -> None:
        loop = self._device._loop
        if loop is None:
            return
        if is_wanted:
            loop.call(self._watch)
        else:
            loop.call(partial(loop.unwatch, self.event.fd))

    def _watch(self) -> None:
        loop = self._device._loop
        if loop is not None and self.event.fd >= 0:
            loop.watch(self.event.fd, READ, self._pass_on)

    def _pass_on(self) -> None:
        self.event.drain()
        with self._device.lock:
            if self._device.is_active:
                self._device.transport.interrupt_queue(self._queue)
