"""PciBus: bus 0 with its 32 slots, and where the guest's accesses to it go."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from ..device_io import DeviceIo
from ..errors import DeviceOverlap, Exhausted, InvalidDevice
from ..record import Record
from ..resources import Resource
from .bar import BarKind

if TYPE_CHECKING:
    from ..guest_ram import GuestRam
    from .device import PciDevice

SLOTS: Final = 32

Window: TypeAlias = tuple[int, int]
"""(first, last), both included, as constraints have them."""
Remap: TypeAlias = Callable[[DeviceIo, Sequence[Resource], Sequence[Resource]], bool]


class PciWindows(Record):
    """The addresses that the host bridge passes on to the bus: BARs are in these."""

    io: Window
    mem32: Window
    mem64: Window


class PciBus:
    """`remap(device, before, after)` moves trapped ranges; False: they can't be there."""

    def __init__(self, windows: PciWindows, remap: Remap, ram: "GuestRam") -> None:
        self.windows = windows
        self.ram = ram

    def attach(self, device: "PciDevice") -> None:
        """Give it a slot, before its resources. Raises DeviceOverlap, Exhausted."""

    def detach(self, device: "PciDevice") -> None:
        """Free its slot."""
