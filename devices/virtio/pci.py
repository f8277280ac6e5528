"""VirtioPci: a virtio device as a PCI function, as all kernels know it that have PCI.

Source: VIRTIO 1.3, section 4.1; Linux drivers/virtio/virtio_pci_modern.c.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from struct import pack
from typing import TYPE_CHECKING, Annotated, Final

from ..errors import InvalidDevice
from ..pci.bar import Bar
from ..pci.config_space import Capability
from ..pci.device import BarDoorbell, PciDevice
from ..pci.reg import PCI_CAP_ID_VNDR
from ..state import State
from .device import VirtioDevice
from .queue import Virtqueue
from .registers import Area, Registers, TransportState

if TYPE_CHECKING:
    from ..clock import Clock
    from ..guest_ram import GuestRam
    from ..resources import DeviceResources
    from ..trigger import Interrupt

VENDOR: Final = 0x1AF4
FIRST_DEVICE: Final = 0x1040  # and the device's type
REVISION: Final = 1
SUBSYSTEM: Final = 0x1100

# Class codes of the PCI Code and ID Assignment Specification, by the device's type
_NETWORK: Final = 0x020000
_STORAGE: Final = 0x018000
_COMMUNICATION: Final = 0x078000
_OTHER: Final = 0xFF0000
_CLASSES: Final = {
    1: _NETWORK,
    2: _STORAGE,
    3: _COMMUNICATION,
    19: _COMMUNICATION,  # vsock
    26: _STORAGE,  # a file system
}

# What is behind the BAR, each a page or more
COMMON: Final = 0x0000
ISR: Final = 0x1000
DEVICE: Final = 0x2000
NOTIFY: Final = 0x3000
COMMON_SIZE: Final = 0x40
NOTIFY_OFF_MULTIPLIER: Final = 4
"""From one queue's notification address to the next one's."""
_DEVICE_MOST: Final = NOTIFY - DEVICE
_BAR: Final = 0

# cfg_type of a capability: section 4.1.4
COMMON_CFG: Final = 1
NOTIFY_CFG: Final = 2
ISR_CFG: Final = 3
DEVICE_CFG: Final = 4
PCI_CFG: Final = 5
# In the last one, counted from its start
_CFG_BAR: Final = 4
_CFG_OFFSET: Final = 8
_CFG_LENGTH: Final = 12
_CFG_DATA: Final = 16

NO_VECTOR: Final = 0xFFFF
_USED_BUFFER: Final = 1  # of the ISR status
_CONFIG_CHANGE: Final = 2
_LOW: Final = (1 << 32) - 1
_ALL: Final = (1 << 64) - 1

_Vector = Annotated[int, range(1 << 16)]


class VirtioPciState(TransportState, kw_only=True):
    """And its vectors, and what INTx was raised for and nobody has read yet."""

    config_vector: _Vector
    queue_vectors: tuple[_Vector, ...]
    isr: Annotated[int, range((_USED_BUFFER | _CONFIG_CHANGE) + 1)]

    def __post_init__(self) -> None:
        super().__post_init__()
        queues = self.registers.queues
        self.require(
            len(self.queue_vectors) == len(queues), "there is one vector a queue"
        )


def _capability(kind: int, offset: int, size: int, more: bytes = b"") -> Capability:
    """A `struct virtio_pci_cap`, and what follows it."""
    body = pack("<BBBB2xII", 16 + len(more), kind, _BAR, 0, offset, size)
    return Capability(PCI_CAP_ID_VNDR, body + more)


class _ConfigAccess(Capability):
    """VIRTIO_PCI_CAP_PCI_CFG: a window to the BAR for those who can't map it."""

    def __init__(self, device: "VirtioPci") -> None:
        self._device = device
        body = pack("<BBBB2xII4x", 20, PCI_CFG, 0, 0, 0, 0)
        writable = pack("<BBBB2xII", 0, 0, 0xFF, 0, _LOW, _LOW) + b"\xff" * 4
        super().__init__(PCI_CAP_ID_VNDR, body, writable)

    def before_read(self, at: int, size: int) -> None:
        place = self._place(at, size)
        if place is not None:
            offset, length = place
            data = bytearray(length)
            self._device.read_bar(_BAR, offset, memoryview(data))
            self.set(_CFG_DATA, length, int.from_bytes(data, "little"))

    def after_write(self, at: int, size: int) -> None:
        place = self._place(at, size)
        if place is not None:
            offset, length = place
            data = self.get(_CFG_DATA, length).to_bytes(length, "little")
            self._device.write_bar(_BAR, offset, memoryview(data))

    def _place(self, at: int, size: int) -> tuple[int, int] | None:
        """Offset and length, if an access to pci_cfg_data means one that can be."""
        offset, length = self.get(_CFG_OFFSET, 4), self.get(_CFG_LENGTH, 4)
        if at + size <= _CFG_DATA or self.get(_CFG_BAR, 1) != _BAR:
            return None
        if length not in (1, 2, 4) or offset % length:
            return None
        is_inside = offset + length <= self._device.bars[_BAR].size
        return (offset, length) if is_inside else None


class VirtioPci(PciDevice):
    """`device`, whose rings are in `ram`, as a function of a PCI bus.

    It has an MSI-X vector for each queue and one for changes of its configuration, and
    INTx for drivers that take none. Each queue has a notification address of its own.
    """

    vendor_id = VENDOR
    revision = REVISION
    subsystem_vendor_id = VENDOR
    subsystem_id = SUBSYSTEM
    uses_intx = True

    def __init__(
        self,
        device: VirtioDevice,
        ram: "GuestRam",
        clock: "Clock",
        slot: int | None = None,
    ) -> None:
        super().__init__()
        self.lock = device.lock  # one for both, or they would be taken in either order
        self.device = device
        self.own_thread = device.own_thread
        self.slot = slot
        self.device_id = FIRST_DEVICE + device.device_type
        self.class_code = _CLASSES.get(device.device_type, _OTHER)
        if len(device.config()) > _DEVICE_MOST:
            raise InvalidDevice(
                f"{device.name} has {len(device.config())} bytes of configuration, of "
                f"{_DEVICE_MOST} at most"
            )
        notify_size = NOTIFY_OFF_MULTIPLIER * len(device.queues)
        self.bars = [Bar(_BAR, 1 << (NOTIFY + notify_size - 1).bit_length())]
        self.msix_vectors = 1 + len(device.queues)
        self.registers = Registers(device, ram, clock)
        self._forget_vectors()
        device.transport = self
        self._readers = self._make_readers()
        self._writers = self._make_writers()

    def _forget_vectors(self) -> None:
        self._isr = 0
        self._config_vector = NO_VECTOR
        self._queue_vectors = [NO_VECTOR] * len(self.device.queues)

    def extra_capabilities(self) -> Iterable[Capability]:
        notify_size = NOTIFY_OFF_MULTIPLIER * len(self.device.queues)
        multiplier = pack("<I", NOTIFY_OFF_MULTIPLIER)
        yield _capability(COMMON_CFG, COMMON, COMMON_SIZE)
        yield _capability(NOTIFY_CFG, NOTIFY, notify_size, multiplier)
        yield _capability(ISR_CFG, ISR, 1)
        if self.device.config():
            yield _capability(DEVICE_CFG, DEVICE, len(self.device.config()))
        yield _ConfigAccess(self)

    def get_bar_doorbells(self) -> Iterable[BarDoorbell]:
        return [
            BarDoorbell(
                bar=_BAR,
                offset=NOTIFY + NOTIFY_OFF_MULTIPLIER * queue.index,
                size=2,
                on_ring=partial(self.device.serve, queue),
                eventfd=self.device.kick_fd(queue),
            )
            for queue in self.device.queues
        ]

    def get_author_device(self) -> VirtioDevice:
        return self.device

    def get_report(self) -> str:
        return self.device.get_report()

    def assign_resources(
        self, resources: "DeviceResources", interrupts: "Sequence[Interrupt]"
    ) -> None:
        super().assign_resources(resources, interrupts)
        if not interrupts:  # unplugged
            with self.lock:
                self.reset_device()

    # Interrupts, as the device's Transport

    def interrupt_queue(self, queue: Virtqueue) -> None:
        with self.lock:
            self._interrupt(self._queue_vectors[queue.index], _USED_BUFFER)

    def interrupt_config(self) -> None:
        with self.lock:
            self._interrupt(self._config_vector, _CONFIG_CHANGE)

    def _interrupt(self, vector: int, why: int) -> None:
        if not self.takes_messages:
            self._isr |= why
            self.set_intx(True)
        elif vector != NO_VECTOR:
            self.interrupt(vector)

    def _take_isr(self) -> int:
        isr, self._isr = self._isr, 0
        self.set_intx(False)
        return isr

    def serve_again(self, queue: Virtqueue) -> None:
        self.registers.serve_again(queue, self.call_soon)

    # Accesses

    def read_bar(self, bar: int, offset: int, data: memoryview) -> None:
        if DEVICE <= offset < DEVICE + _DEVICE_MOST:
            self.registers.read_config(offset - DEVICE, data)
            return
        reader = self._readers.get((offset, len(data)))
        if reader is None:
            data[:] = b"\xff" * len(data)
        else:
            data[:] = reader().to_bytes(len(data), "little")

    def write_bar(self, bar: int, offset: int, data: memoryview) -> None:
        if offset >= NOTIFY:
            if len(data) == 2 and offset % NOTIFY_OFF_MULTIPLIER == 0:
                self.registers.kick((offset - NOTIFY) // NOTIFY_OFF_MULTIPLIER)
        elif offset >= DEVICE:
            self.registers.write_config(offset - DEVICE, data)
        elif (writer := self._writers.get((offset, len(data)))) is not None:
            writer(int.from_bytes(data, "little"))

    def _make_readers(self) -> dict[tuple[int, int], Callable[[], int]]:
        """By offset and size, of the common configuration and the ISR status."""
        registers = self.registers
        readers: dict[tuple[int, int], Callable[[], int]] = {
            (0x00, 4): lambda: registers.device_feature_select,
            (0x04, 4): registers.read_device_features,
            (0x08, 4): lambda: registers.driver_feature_select,
            (0x0C, 4): registers.read_driver_features,
            (0x10, 2): lambda: self._config_vector,
            (0x12, 2): lambda: len(self.device.queues),
            (0x14, 1): lambda: registers.status,
            (0x15, 1): lambda: registers.generation,
            (0x16, 2): lambda: registers.queue_select,
            (0x18, 2): registers.read_queue_size,
            (0x1A, 2): self._read_queue_vector,
            (0x1C, 2): lambda: registers.is_queue_enabled,
            (0x1E, 2): lambda: registers.queue_select if registers.queue else 0,
            (0x38, 2): lambda: 0,  # queue_notif_config_data, which isn't offered
            (0x3A, 2): lambda: 0,  # queue_reset: it is over when it was written
            (0x3C, 2): lambda: 0,  # there are no admin queues
            (0x3E, 2): lambda: 0,
            (ISR, 1): self._take_isr,
        }
        for offset, area in _ADDRESSES.items():
            read = partial(self._read_address, area)
            readers[offset, 8] = partial(read, 0, _ALL)
            readers[offset, 4] = partial(read, 0, _LOW)
            readers[offset + 4, 4] = partial(read, 32, _LOW)
        return readers

    def _make_writers(self) -> dict[tuple[int, int], Callable[[int], None]]:
        registers = self.registers
        writers: dict[tuple[int, int], Callable[[int], None]] = {
            (0x00, 4): partial(setattr, registers, "device_feature_select"),
            (0x08, 4): partial(setattr, registers, "driver_feature_select"),
            (0x0C, 4): registers.write_driver_features,
            (0x10, 2): self._write_config_vector,
            (0x14, 1): self._write_status,
            (0x16, 2): partial(setattr, registers, "queue_select"),
            (0x18, 2): registers.write_queue_size,
            (0x1A, 2): self._write_queue_vector,
            (0x1C, 2): partial(_if_1, registers.enable_queue),
            (0x3A, 2): partial(_if_1, registers.reset_queue),
        }
        for offset, area in _ADDRESSES.items():
            write = partial(self._write_address, area)
            writers[offset, 8] = partial(write, 0, _ALL)
            writers[offset, 4] = partial(write, 0, _LOW)
            writers[offset + 4, 4] = partial(write, 32, _LOW)
        return writers

    def _read_address(self, area: Area, shift: int, mask: int) -> int:
        return self.registers.read_queue_address(area) >> shift & mask

    def _write_address(self, area: Area, shift: int, mask: int, value: int) -> None:
        self.registers.write_queue_address(area, value << shift, mask << shift)

    def _read_queue_vector(self) -> int:
        queue = self.registers.queue
        return NO_VECTOR if queue is None else self._queue_vectors[queue.index]

    def _write_config_vector(self, vector: int) -> None:
        self._config_vector = self._usable(vector)

    def _write_queue_vector(self, vector: int) -> None:
        queue = self.registers.queue
        if queue is not None:
            self._queue_vectors[queue.index] = self._usable(vector)
            self._connect_calls()

    def _connect_calls(self) -> None:
        """Have those of queues that are served elsewhere raise the right vectors."""
        if not self.device.is_elsewhere:
            return
        for queue, vector in zip(self.device.queues, self._queue_vectors, strict=True):
            signal = self.device.call_signal(queue)
            if signal is not None:
                self.take_signal(signal, None if vector == NO_VECTOR else vector)

    def _usable(self, vector: int) -> int:
        return vector if vector < self.msix_vectors else NO_VECTOR

    def _write_status(self, value: int) -> None:
        if value == 0:
            self.reset_device()
        else:
            self.registers.write_status(value)

    # Reset and state

    def reset_device(self) -> None:
        self.registers.reset()
        self._forget_vectors()
        self._connect_calls()
        self.drop_interrupts()

    def device_state(self) -> VirtioPciState:
        return self.registers.state_of(
            VirtioPciState,
            config_vector=self._config_vector,
            queue_vectors=tuple(self._queue_vectors),
            isr=self._isr,
        )

    def restore_device(self, state: State) -> None:
        new = self.registers.restore(self.device_state(), state)
        self._config_vector = new.config_vector
        self._queue_vectors = list(new.queue_vectors)
        self._isr = new.isr
        self.registers.go_on()


def _if_1(act: Callable[[], None], value: int) -> None:
    """Writing anything else is forbidden to drivers."""
    if value == 1:
        act()


_ADDRESSES: "Final[dict[int, Area]]" = {0x20: "desc", 0x28: "driver", 0x30: "device"}
