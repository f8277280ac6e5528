"""What a bus is given by its host bridge and by the machine."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..device_io import DeviceIo
from ..record import Record
from ..resources import Resource

Window: TypeAlias = tuple[int, int]
"""(first, last), both included, as constraints have them."""
Remap: TypeAlias = Callable[[DeviceIo, Sequence[Resource], Sequence[Resource]], bool]
"""Moves a device's trapped ranges; see PciBus."""


class PciWindows(Record):
    """The addresses that the host bridge passes on to the bus: BARs are in these."""

    io: Window
    mem32: Window
    mem64: Window
