"""Bar: what a device's author says of one of its base address registers."""

from collections.abc import Iterable
from enum import Enum
from typing import Final

from ..errors import InvalidDevice
from ..record import Record
from .reg import (
    PCI_BASE_ADDRESS_0,
    PCI_BASE_ADDRESS_MEM_PREFETCH,
    PCI_BASE_ADDRESS_MEM_TYPE_64,
    PCI_BASE_ADDRESS_SPACE_IO,
)

BARS: Final = 6
_MOST_PORTS: Final = 256  # PCI Local Bus Specification 3.0, section 6.2.5.1
_LEAST_MEMORY: Final = 16
_LEAST_PORTS: Final = 4


class BarKind(Enum):
    """What is behind a BAR, and how many bits its address has."""

    MEM32 = "32-bit memory"
    MEM64 = "64-bit memory"
    IO = "ports"


class Bar(Record):
    """`size` bytes of registers, a power of two, behind BAR `index`, 0..5.

    A MEM64 takes the next index, too. Ports are 4..256, memory is at least 16 bytes;
    memory that a program of the guest's is to map should have 4096 or more. Raises
    InvalidDevice for what can't be.
    """

    index: int
    size: int
    kind: BarKind = BarKind.MEM32
    prefetchable: bool = False

    def __post_init__(self) -> None:
        least, most = _LEAST_MEMORY, 1 << (63 if self.kind is BarKind.MEM64 else 31)
        if self.kind is BarKind.IO:
            least, most = _LEAST_PORTS, _MOST_PORTS
        if not 0 <= self.index <= BARS - self.registers:
            raise InvalidDevice(
                f"BAR {self.index} of {self.kind.value} is none of 0..5"
            )
        if not least <= self.size <= most or self.size & (self.size - 1):
            raise InvalidDevice(
                f"BAR {self.index} has {self.size:#x} bytes of {self.kind.value}: a "
                f"power of two is needed, {least:#x}..{most:#x}"
            )
        if self.prefetchable and self.kind is BarKind.IO:
            raise InvalidDevice(f"BAR {self.index}: ports can't be prefetchable")

    @property
    def registers(self) -> int:
        """How many registers of 32 bits it has."""
        return 2 if self.kind is BarKind.MEM64 else 1

    @property
    def offset(self) -> int:
        """Where it is in configuration space."""
        return PCI_BASE_ADDRESS_0 + 4 * self.index

    @property
    def flags(self) -> int:
        """The bits of the register that say what it is."""
        if self.kind is BarKind.IO:
            return PCI_BASE_ADDRESS_SPACE_IO
        is_64 = self.kind is BarKind.MEM64
        return (is_64 and PCI_BASE_ADDRESS_MEM_TYPE_64) | (
            self.prefetchable and PCI_BASE_ADDRESS_MEM_PREFETCH
        )


def check_bars(bars: Iterable[Bar]) -> None:
    """Raises InvalidDevice if two of a device's have a register in common."""
    taken: set[int] = set()
    for bar in bars:
        own = set(range(bar.index, bar.index + bar.registers))
        if own & taken:
            raise InvalidDevice(f"BAR {max(own & taken)} is there twice")
        taken |= own
