"""VirtioDevice: the class that a virtio device's author derives from.

What all devices have in common, be the transport PCI, MMIO or a vhost-user socket:
features, queues, the configuration space, and what becomes of a driver's nonsense.
Source: VIRTIO 1.3, chapters 2 and 3.
"""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from ..errors import BrokenRing, DeviceError, InvalidDevice
from ..state import refuse_state
from .chain import MAX_QUEUE_SIZE
from .features import (
    VIRTIO_F_EVENT_IDX,
    VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_RING_PACKED,
    VIRTIO_F_RING_RESET,
    VIRTIO_F_VERSION_1,
)
from .queue import Virtqueue

if TYPE_CHECKING:
    from ..state import State
    from ..trigger import Signal

MOST_TOLD: Final = 200
"""Characters of why a device needs a reset."""
TYPE_MAX: Final = 63
"""So that PCI's device IDs are those that are set aside: VIRTIO 1.3, 4.1.2."""
_ITS_OWN: Final = (1 << 24) - 1 | 1 << 42 | (1 << 64) - (1 << 50)
_OFFERED: Final = (
    1 << VIRTIO_F_INDIRECT_DESC
    | 1 << VIRTIO_F_EVENT_IDX
    | 1 << VIRTIO_F_VERSION_1
    | 1 << VIRTIO_F_RING_RESET
)


class Transport(Protocol):
    """How a device reaches its driver. No call blocks; from any thread."""

    def interrupt_queue(self, queue: Virtqueue, /) -> None:
        """Send a used buffer notification."""

    def interrupt_config(self) -> None:
        """Send a configuration change notification."""

    def serve_again(self, queue: Virtqueue, /) -> None:
        """Have `VirtioDevice.serve` called soon, when others had their turn.

        On the device's own thread, if it has one.
        """


class NoTransport:
    """Of a device that nobody has plugged in."""

    def interrupt_queue(self, queue: Virtqueue, /) -> None:
        """To nobody."""

    def interrupt_config(self) -> None:
        """To nobody."""

    def serve_again(self, queue: Virtqueue, /) -> None:
        """Never."""


class VirtioDevice:
    """A virtio device: derive from it, and override what yours does otherwise.

    `device_type` and `queue_sizes` are all that it must say, `handle` what it must do:
    it is called when the driver may have put buffers into a queue. Those that it then
    has to itself, chains, it gives back by `queue.push`, there or later:

    >>> class Zeros(VirtioDevice):
    ...     device_type = 4  # an entropy device, of sorts
    ...     queue_sizes = (64,)
    ...
    ...     def handle(self, queue):
    ...         for chain in queue:
    ...             queue.push(chain, chain.write(bytes(chain.writable_size)))

    The transport, which the machine chooses, calls the methods below with `lock` held,
    on a vCPU's thread, the event loop's, or one of the device's own (`own_thread`).
    Whoever else uses queues does so within ``with self.working():``. That is where
    interrupts are sent from, once for all that was pushed, and where a ring that the
    driver has broken ends: the device stops there and NEEDS_RESET tells so.

    What `handle` raises otherwise is a bug, and ends the run. Making one raises
    InvalidDevice for attributes that can't be.
    """

    device_type: ClassVar[int]
    """The number that its driver goes by: VIRTIO 1.3, chapter 5."""
    queue_sizes: Sequence[int] = ()
    """The most entries of each queue, powers of two up to 32768."""
    features: int = 0
    """The bits of its own that it offers: 0..23, 42 and 50..63."""
    packed: bool = False
    """Whether it offers packed rings, which Linux then takes."""
    own_thread: bool = False
    """Whether its queues are served on a thread of its own, not the event loop's."""
    is_elsewhere: bool = False
    """Whether another process serves its queues, by `kick_fd` and `call_signal`."""

    def __init__(self) -> None:
        self._check()
        self.lock: Final = threading.RLock()
        """Held in each call of a method below, and by whoever uses a queue."""
        self.queues: Final = [
            Virtqueue(index, size) for index, size in enumerate(self.queue_sizes)
        ]
        self.negotiated = 0
        """The feature bits that the driver has accepted, all of them."""
        self.is_active = False
        """Whether the driver is ready: between `activate` and the next reset."""
        self.trouble = ""
        """Why the device needs a reset, if it does."""
        self.transport: Transport = NoTransport()
        self.on_trouble: Callable[[str], None] | None = None
        """Told why it doesn't work as its driver wants, each time; by its host."""
        self._work = _Work(self)

    def _check(self) -> None:
        name = type(self).__name__
        kind = getattr(self, "device_type", None)
        if not isinstance(kind, int) or not 1 <= kind <= TYPE_MAX:
            raise InvalidDevice(
                f"{name}.device_type is {kind}: it must be 1..{TYPE_MAX}"
            )
        for size in self.queue_sizes:
            if not 1 <= size <= MAX_QUEUE_SIZE or size & (size - 1):
                raise InvalidDevice(
                    f"{name}.queue_sizes has {size}: powers of two up to "
                    f"{MAX_QUEUE_SIZE} are possible"
                )
        if self.features & ~_ITS_OWN:
            raise InvalidDevice(
                f"{name}.features is {self.features:#x}: bits of a device's own are "
                "0..23, 42 and 50..63"
            )

    @property
    def name(self) -> str:
        """What its host's user knows it by."""
        return type(self).__name__

    # For heirs to override

    def config(self) -> bytes:
        """The configuration space as of now, always of one length. Default: empty.

        Asked for with each access. A driver is told of a change by `config_changed`;
        one that reads meanwhile notices by itself.
        """
        return b""

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes `data`, which lies within `config()`, at `offset`.

        It may do that before the device is active. Default: ignored.
        """

    def accepts(self, features: int) -> bool:
        """Whether it can work with these, which are some of those that it offers.

        Always the same for the same ones. Default: it can.
        """
        return True

    def activate(self) -> None:
        """The driver is ready: queues have what `enable` gave them. Default: nothing.

        Raise DeviceError or OSError if the host lacks what it takes: the device needs
        a reset then, and its user is told why.
        """

    def handle(self, queue: Virtqueue) -> None:
        """Look at `queue`, in which there may be new chains, or not."""
        raise NotImplementedError

    def kick_fd(self, queue: Virtqueue) -> int | None:
        """An eventfd of its own that kicks of `queue` are to signal.

        For one that `is_elsewhere`. Those that come otherwise are for `handle`, as
        ever. Default, None: all are.
        """

    def call_signal(self, queue: Virtqueue) -> "Signal | None":
        """What whoever serves `queue` interrupts the driver by. Default: None."""

    def reset_queue(self, queue: Virtqueue) -> None:
        """Let go of what you have of this queue; it is about to be empty.

        On return nobody touches buffers of its chains any more. What is pushed later is
        ignored. Default: nothing, for a device that is done when `handle` returns.
        """

    def reset(self) -> None:
        """Return to the power-on state, whatever is under way; as `reset_queue` of all.

        Not to the state of a new one, but of one that no driver has found yet: what the
        host has set stays. Default: nothing.
        """

    def state(self) -> "State | None":
        """What the driver could tell of it, beside queues and features. Default: None.

        Chains that it has taken and not pushed yet are the queue's part.
        """
        return None

    def restore(self, state: "State | None") -> None:
        """Go on from what `state` gave; features and queues are restored already.

        Each queue is handled once soon after, and gives all chains again that it had
        given and not got back. Raises InvalidState, with nothing changed.
        """
        refuse_state(self, state)

    # For heirs to use

    def has(self, bit: int) -> bool:
        """Whether the driver has accepted feature `bit`."""
        return bool(self.negotiated >> bit & 1)

    def working(self) -> "_Work":
        """A `with` block that uses queues outside the methods above.

        It holds `lock`, and sends the interrupts that are due when it ends.
        """
        return self._work

    def notify(self, queue: Virtqueue) -> None:
        """Send the interrupt that is due for what was pushed into `queue`, if any."""
        with self.lock:
            if self.is_active and queue.needs_interrupt():
                self.transport.interrupt_queue(queue)

    def config_changed(self) -> None:
        """Tell the driver that the configuration space has changed."""
        with self.lock:
            if self.is_active:
                self.transport.interrupt_config()

    def fail(self, why: str) -> None:
        """Tell the driver that it has to reset the device, and the host's user why.

        From any thread. Only the first time until a reset counts. Other queues than a
        broken one are handled on: `trouble` says that there was something.
        """
        with self.lock:
            if self.trouble:
                return
            self.trouble = why[:MOST_TOLD] or "it has failed"
            if self.is_active:
                self.transport.interrupt_config()
            self.report(self.trouble)

    # For transports

    def get_report(self) -> str:
        """A line for the report of a crash or a hang."""
        return f"{self.name} needs a reset: {self.trouble}" if self.trouble else ""

    def report(self, trouble: str) -> None:
        """Tell the host's user."""
        if self.on_trouble is not None:
            self.on_trouble(trouble)

    @property
    def offered(self) -> int:
        """All feature bits that it offers."""
        packed = 1 << VIRTIO_F_RING_PACKED if self.packed else 0
        return self.features | _OFFERED | packed

    def start(self) -> None:
        """The driver has set DRIVER_OK; `negotiated` and the queues are set up."""
        with self.lock:
            self.is_active = True
            try:
                self.activate()
            except (DeviceError, OSError) as error:
                self.fail(str(error))
                self.is_active = False

    def serve(self, queue: Virtqueue) -> None:
        """Handle a queue that was kicked, unless the driver isn't ready for it."""
        with self.working():
            if self.is_active and queue.is_enabled:
                queue.more = False
                self.handle(queue)
                if queue.more:
                    self.transport.serve_again(queue)

    def stop(self) -> None:
        """The driver resets it: on return nothing of it touches guest memory."""
        with self.lock:
            self.is_active = False
            self.reset()
            for queue in self.queues:
                queue.reset()
            self.negotiated = 0
            self.trouble = ""

    def notify_all(self) -> None:
        """`notify` for each queue, with `lock` held."""
        if self.is_active:
            for queue in self.queues:
                if queue.needs_interrupt():
                    self.transport.interrupt_queue(queue)


class _Work:
    """What `working` gives: it may be entered within itself, by the same thread."""

    __slots__ = ("_device",)

    def __init__(self, device: VirtioDevice) -> None:
        self._device = device

    def __enter__(self) -> None:
        self._device.lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        device = self._device
        try:
            if isinstance(error, BrokenRing):
                device.fail(str(error))
            device.notify_all()
        finally:
            device.lock.release()
        return isinstance(error, BrokenRing)
