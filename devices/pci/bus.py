"""PciBus: bus 0 with its 32 slots, and how the guest's accesses find its functions."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ..errors import DeviceOverlap, Exhausted, InvalidDevice, InvalidRange
from .device import PciDevice
from .reg import PCI_CFG_SPACE_SIZE
from .windows import PciWindows, Remap

if TYPE_CHECKING:
    from ..guest_ram import GuestRam

SLOTS: Final = 32


class PciBus:
    """Bus 0 of the only segment. Every device in it is function 0 of its slot.

    `remap(device, before, after)` has the ranges `after` trapped for the device, and no
    longer those `before`, and its doorbells likewise, all in one instant; or returns
    False, with nothing changed, where something else is in the way. It may take the
    machine's locks, but then none of them may be held where configuration space is
    accessed. `ram` is what devices reach by DMA.
    """

    def __init__(self, windows: PciWindows, remap: Remap, ram: "GuestRam") -> None:
        self.windows = windows
        self.remap = remap
        self.ram = ram
        self.failed: PciDevice | None = None
        """Who has raised at an access to configuration space, which ends the run."""
        self._devices: dict[int, PciDevice] = {}
        self._asked: dict[PciDevice, int | None] = {}  # for which slot
        self._lock = threading.Lock()  # BARs move one after the other

    @property
    def devices(self) -> list[PciDevice]:
        """Those in it, the lowest slot first."""
        return [device for _, device in sorted(self._devices.items())]

    def attach(self, device: PciDevice) -> None:
        """Put it into the slot that it asks for, or the first that is free.

        Before a machine allocates its resources. Raises InvalidDevice or InvalidRange,
        DeviceOverlap if the slot is taken or the device in one, and Exhausted if all
        are; then nothing has changed.
        """
        slot, name = device.slot, type(device.get_author_device()).__name__
        if device in self._asked:
            raise DeviceOverlap(f"{name} is in PCI slot {slot} already")
        if slot is None:
            free = (at for at in range(SLOTS) if at not in self._devices)
            slot = next(free, None)
        if slot is None:
            raise Exhausted(f"{name} finds none of the {SLOTS} PCI slots free")
        if slot not in range(SLOTS):
            raise InvalidDevice(f"{name}.slot is {slot}: it must be 0..{SLOTS - 1}")
        if slot in self._devices:
            other = type(self._devices[slot].get_author_device()).__name__
            raise DeviceOverlap(f"PCI slot {slot} of {name} is {other}'s")
        try:
            device.join(self.windows, self.remap, self.ram)
        except (InvalidDevice, InvalidRange) as error:
            raise type(error)(f"{name}: {error}") from None
        self._asked[device] = device.slot
        device.slot = slot
        self._devices[slot] = device

    def detach(self, device: PciDevice) -> None:
        """Free its slot, once its ranges are trapped no more; it may get another."""
        for slot, other in list(self._devices.items()):
            if other is device:
                del self._devices[slot]
                device.slot = self._asked.pop(device)

    def read_config(
        self, slot: int, function: int, offset: int, data: memoryview
    ) -> None:
        """The guest's read; all ones where there is no function, or no register."""
        device = self._function(slot, function, offset, len(data))
        if device is None:
            data[:] = b"\xff" * len(data)
            return
        with self._telling_of(device):
            device.read_config(offset, data)

    def write_config(
        self, slot: int, function: int, offset: int, data: memoryview
    ) -> None:
        """The guest's write; ignored likewise."""
        device = self._function(slot, function, offset, len(data))
        if device is None:
            return
        with self._lock:
            with self._telling_of(device):
                has_moved = device.write_config(offset, data)
            for other in self.devices if has_moved else ():
                if other is not device:  # which may have been in its way
                    with self._telling_of(other):
                        other.follow(retry=True)

    @contextmanager
    def _telling_of(self, device: PciDevice) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.failed = device
            raise

    def _function(
        self, slot: int, function: int, offset: int, size: int
    ) -> PciDevice | None:
        """Who answers: bytes, words and doublewords are within 4 aligned bytes."""
        fits = size in (1, 2, 4) and offset % 4 + size <= 4
        if function or not fits or offset >= PCI_CFG_SPACE_SIZE:
            return None
        return self._devices.get(slot)
