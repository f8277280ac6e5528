"""Registers: what a driver sets a device up by, which is the same by PCI and MMIO.

Status, features, queues and the configuration space; a transport knows where each is,
and has the interrupts. What a driver may not do yet, or any more, is ignored.
Source: VIRTIO 1.3, sections 2.1, 2.2, 2.5, 2.6 and 3.1.
"""

from collections.abc import Callable
from functools import partial
from typing import (
    TYPE_CHECKING,
    Annotated,
    Final,
    Literal,
    TypeAlias,
    TypeVar,
)

from ..errors import BrokenRing, InvalidState
from ..state import State, Uint64, with_device
from .device import MOST_TOLD, VirtioDevice
from .features import VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1
from .queue import Virtqueue, VirtqueueState

if TYPE_CHECKING:
    from ..clock import Clock
    from ..guest_ram import GuestRam

ACKNOWLEDGE: Final = 1
DRIVER: Final = 2
DRIVER_OK: Final = 4
FEATURES_OK: Final = 8
DEVICE_NEEDS_RESET: Final = 64
FAILED: Final = 128
_DRIVERS: Final = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED

Area: TypeAlias = Literal["desc", "driver", "device"]
"""A part of a queue in guest memory, by the name of Virtqueue's attribute."""
_CallSoon: TypeAlias = Callable[[Callable[[], None]], None]

_WORD: Final = (1 << 32) - 1
_Word = Annotated[int, range(1 << 32)]


class RegistersState(State, kw_only=True):
    """What a driver has written, and what has become of it, but for the device's own.

    `config` is the configuration space; `trouble` is why the device needs a reset.
    """

    device_feature_select: _Word
    driver_feature_select: _Word
    driver_features: Uint64
    queue_select: _Word
    status: Annotated[int, range(_DRIVERS + 1)]
    generation: Annotated[int, range(1 << 8)]
    config: bytes
    config_was_read: bool
    is_active: bool
    trouble: Annotated[str, range(MOST_TOLD + 1)]
    queues: tuple[VirtqueueState, ...]
    reset_queues: tuple[bool, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        status = self.status
        self.require(not status & ~_DRIVERS, "a driver can't set these bits of status")
        for bit, needs in (
            (DRIVER, ACKNOWLEDGE),
            (FEATURES_OK, DRIVER),
            (DRIVER_OK, FEATURES_OK),
        ):
            self.require(not status & bit or status & needs == needs, _OUT_OF_ORDER)
        self.require(
            not self.is_active or status & DRIVER_OK > 0, "it is active by DRIVER_OK"
        )
        self.require(
            len(self.reset_queues) == len(self.queues), "there is one flag a queue"
        )


_OUT_OF_ORDER: Final = "status has a bit whose predecessor it hasn't"


class TransportState(State, kw_only=True):
    """Base of a transport's state; `with_device` adds the device's own to it."""

    registers: RegistersState


_State = TypeVar("_State", bound=TransportState)


class Registers:
    """One device's, over `ram`; its transport calls these with `device.lock` held."""

    def __init__(self, device: VirtioDevice, ram: "GuestRam", clock: "Clock") -> None:
        self.device = device
        self.was_found = False
        """Whether a driver has ever looked for it."""
        self.stray_kicks = 0
        """Those of queues that there aren't."""
        self._ram = ram
        self._clock = clock
        self._due: set[Virtqueue] = set()  # to be served, and not yet
        self._clear()

    def _clear(self) -> None:
        self.device_feature_select = 0
        self.driver_feature_select = 0
        self.queue_select = 0
        self._driver_features = 0
        self._status = 0
        self._generation = 0
        self._config = self.device.config()
        self._config_was_read = False
        self._reset_queues: set[Virtqueue] = set()

    # Status

    @property
    def status(self) -> int:
        """The device status field."""
        return self._status | (DEVICE_NEEDS_RESET if self.device.trouble else 0)

    @property
    def is_ready(self) -> bool:
        """Whether the driver has set DRIVER_OK."""
        return bool(self._status & DRIVER_OK)

    def write_status(self, value: int) -> None:
        """0 resets the device; else the driver sets bits, in their order.

        A write that clears bits is ignored whole; NEEDS_RESET isn't the driver's.
        """
        before = self._status
        if value == 0:
            self.reset()
            return
        self.was_found = True
        if before & ~value or before & FAILED:
            return
        self._status |= value & (ACKNOWLEDGE | FAILED)
        if value & DRIVER and self._status & ACKNOWLEDGE:
            self._status |= DRIVER
        if value & ~before & FEATURES_OK and self._status & DRIVER:
            self._take_features()
        if value & ~before & DRIVER_OK and before & FEATURES_OK:
            self._status |= DRIVER_OK
            self.device.start()

    def _take_features(self) -> None:
        if self._can_work_with(self._driver_features):
            self.device.negotiated = self._driver_features
            self._status |= FEATURES_OK

    def _can_work_with(self, features: int) -> bool:
        return (
            not features & ~self.device.offered
            and features >> VIRTIO_F_VERSION_1 & 1 == 1
            and self.device.accepts(features)
        )

    def reset(self) -> None:
        """Back to power-on, with what is in flight cut off from guest memory."""
        self.device.stop()
        self._clear()

    # Features

    def read_device_features(self) -> int:
        """The 32 offered bits that are selected; there are 64."""
        return _word_of(self.device.offered, self.device_feature_select)

    def read_driver_features(self) -> int:
        """The 32 accepted bits that are selected."""
        return _word_of(self._driver_features, self.driver_feature_select)

    def write_driver_features(self, value: int) -> None:
        """Accept these of the bits that are selected: under DRIVER alone."""
        if self._status & (DRIVER | FEATURES_OK | FAILED) != DRIVER:
            return
        if self.driver_feature_select <= 1:
            shift = 32 * self.driver_feature_select
            kept = self._driver_features & ~(_WORD << shift)
            self._driver_features = kept | value << shift

    # Queues

    @property
    def is_queue_enabled(self) -> bool:
        """Whether that which is selected is in use."""
        queue = self.queue
        return queue is not None and queue.is_enabled

    @property
    def queue(self) -> Virtqueue | None:
        """That which is selected, if there is one."""
        queues = self.device.queues
        return queues[self.queue_select] if self.queue_select < len(queues) else None

    def _settable_queue(self) -> Virtqueue | None:
        """That which is selected, if it is to be set up now."""
        queue = self.queue
        if queue is None or queue.is_enabled:
            return None
        if self._status & (FEATURES_OK | FAILED) != FEATURES_OK:
            return None
        return None if self.is_ready and queue not in self._reset_queues else queue

    def read_queue_size(self) -> int:
        """How many entries it has, or may have at most; 0 for one that there isn't."""
        return 0 if self.queue is None else self.queue.size

    def write_queue_size(self, value: int) -> None:
        """How many entries it is to have; what can't be is seen when it is enabled."""
        queue = self._settable_queue()
        if queue is not None:
            queue.size = value if value <= queue.max_size else 0

    def read_queue_address(self, area: Area) -> int:
        """Where `area` is, 64 bits."""
        queue = self.queue
        return 0 if queue is None else int(getattr(queue, area))

    def write_queue_address(self, area: Area, value: int, mask: int) -> None:
        """Set those bits of where `area` is that are in `mask`."""
        queue = self._settable_queue()
        if queue is not None:
            setattr(queue, area, getattr(queue, area) & ~mask | value & mask)

    def enable_queue(self) -> None:
        """Take it into use, if what it was given can be; else it stays as it is."""
        queue = self._settable_queue()
        if queue is None:
            return
        try:
            queue.enable(self._ram, self.device.negotiated)
        except BrokenRing as error:
            self.device.report(f"{error}: it is not enabled")
            return
        self._reset_queues.discard(queue)

    def disable_queue(self) -> None:
        """Let go of it."""
        queue = self.queue
        if queue is not None and queue.is_enabled:
            self._let_go(queue)

    def reset_queue(self) -> None:
        """The same for a driver that has negotiated it, and may set it up again."""
        queue = self.queue
        if queue is None or not self.is_ready:
            return
        if not self.device.has(VIRTIO_F_RING_RESET):
            return
        if queue.is_enabled:
            self._let_go(queue)
        self._reset_queues.add(queue)

    def _let_go(self, queue: Virtqueue) -> None:
        self.device.reset_queue(queue)
        queue.reset()

    def kick(self, index: int) -> None:
        """The driver says that it has put something into queue `index`."""
        if index < len(self.device.queues):
            queue = self.device.queues[index]
            if self.device.own_thread:  # and not on a vCPU's, which that would hold up
                self.device.transport.serve_again(queue)
            else:
                self.device.serve(queue)
        else:
            self.stray_kicks += 1

    def serve_again(self, queue: Virtqueue, call_soon: _CallSoon | None) -> None:
        """Soon, on the clock's thread, or by `call_soon` on another.

        But not while the guest stands still, when a device that is asked for its state
        has to do so, too.
        """
        if queue in self._due:  # or a guest that kicks could have ever more called
            return
        self._due.add(queue)
        serve: Callable[[], None] = partial(self._serve, queue)
        if call_soon is not None:
            serve = partial(call_soon, serve)
        soon = self._clock.now_ns() + 1  # later, or a clock might not get past it
        self._clock.call_at(soon, serve)

    def _serve(self, queue: Virtqueue) -> None:
        self._due.discard(queue)
        try:
            self.device.serve(queue)
        except Exception as error:
            error.add_note(f"when device {self.device.name} was at its queues")
            raise

    # The configuration space

    @property
    def generation(self) -> int:
        """Another one, of 8 bits, than before a change of what was read before it."""
        self._look_at_config()
        return self._generation

    def _look_at_config(self) -> bytes:
        config = self.device.config()
        if config != self._config:
            # Only once for all changes since it was read, or a device that changes
            # often would come back to the same number while it is.
            if self._config_was_read:
                self._generation = (self._generation + 1) % (1 << 8)
            self._config_was_read = False
            self._config = config
        return config

    def read_config(self, offset: int, data: memoryview) -> None:
        """Fill `data`; with zeros beyond the end."""
        config = self._look_at_config()
        self._config_was_read = True
        data[:] = config[offset : offset + len(data)].ljust(len(data), b"\0")

    def write_config(self, offset: int, data: memoryview) -> None:
        """Pass on what lies within it."""
        if offset + len(data) <= len(self.device.config()):
            self.device.write_config(offset, bytes(data))

    # State

    def state(self) -> RegistersState:
        """All that isn't the device's own."""
        self._look_at_config()  # what was changed before isn't news afterwards
        queues = self.device.queues
        return RegistersState(
            device_feature_select=self.device_feature_select,
            driver_feature_select=self.driver_feature_select,
            driver_features=self._driver_features,
            queue_select=self.queue_select,
            status=self._status,
            generation=self._generation,
            config=self._config,
            config_was_read=self._config_was_read,
            is_active=self.device.is_active,
            trouble=self.device.trouble,
            queues=tuple(queue.state() for queue in queues),
            reset_queues=tuple(queue in self._reset_queues for queue in queues),
        )

    def state_of(self, kind: type[_State], **values: object) -> _State:
        """A transport's State, of `values` and what is behind it."""
        own = self.device.state()
        if own is not None:
            kind = with_device(kind, type(own))
            values["device"] = own
        return kind(registers=self.state(), **values)

    def restore(self, before: _State, state: State | None) -> _State:
        """Go on from what `state_of` gave, and return it; then comes `go_on`.

        `before` is what it gives now. Raises InvalidState, with nothing changed.
        """
        new = type(before).of(state)
        self._check(new.registers)
        try:
            self._set(new)
        except InvalidState:
            self._set(before)
            self.go_on()
            raise
        return new

    def go_on(self) -> None:
        """The transport is restored, too: tell the driver, and be told, of news."""
        if not self.device.is_active:
            return
        if self.device.config() != self._config:
            self.device.config_changed()
        for queue in self.device.queues:
            self.device.transport.serve_again(queue)

    def _check(self, state: RegistersState) -> None:
        if len(state.queues) != len(self.device.queues):
            raise InvalidState(
                f"{self.device.name} has {len(self.device.queues)} queues, and "
                f"{len(state.queues)} in the state"
            )
        if state.status & FEATURES_OK and not self._can_work_with(
            state.driver_features
        ):
            raise InvalidState(
                f"{self.device.name} doesn't offer all of the features "
                f"{state.driver_features:#x} that its driver has accepted"
            )

    def _set(self, whole: TransportState) -> None:
        device, state = self.device, whole.registers
        device.stop()
        self.device_feature_select = state.device_feature_select
        self.driver_feature_select = state.driver_feature_select
        self.queue_select = state.queue_select
        self._driver_features = state.driver_features
        self._status = state.status
        self.was_found |= state.status > 0
        self._generation = state.generation
        self._config = state.config
        self._config_was_read = state.config_was_read
        device.is_active = state.is_active
        device.trouble = state.trouble
        device.negotiated = state.driver_features if state.status & FEATURES_OK else 0
        for queue, saved in zip(device.queues, state.queues, strict=True):
            queue.restore(saved, self._ram, device.negotiated)
        self._reset_queues = {
            queue
            for queue, was_reset in zip(device.queues, state.reset_queues, strict=True)
            if was_reset
        }
        device.restore(getattr(whole, "device", None))


def _word_of(bits: int, select: int) -> int:
    return bits >> 32 * select & _WORD if select <= 1 else 0
