"""What a device asks for (constraints) and what it is given (resources).

dbs-device has two enums, `ResourceConstraint` and `Resource`, whose variants
share names. Here each enum is a base class and each variant a frozen
dataclass; a constraint's name ends in ``Constraint`` and a resource has the
variant's own name, so `LegacyIrqConstraint(irq=4)` asks and `LegacyIrq(4)` is
the answer. Both are checked when they are made: an address range that wraps
or is empty can't exist. Ranges in constraints include both of their ends.
"""

import re
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import ClassVar, Final, Self, TypeVar

from .errors import InvalidRange, UnknownResource
from .record import Record

PIO_END: Final = 1 << 16  # one past the last port
ADDRESS_END: Final = 1 << 64  # one past the last guest physical address
IRQ_END: Final = 1 << 32
_MAC: Final = r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}"  # compiled by who has one

_Kind = TypeVar("_Kind", bound="Resource")


class MsiIrqType(Enum):
    """What an MSI block is for."""

    PCI_MSI = "PCI MSI"
    PCI_MSIX = "PCI MSI-X"
    GENERIC = "generic MSI"


# --- checks ------------------------------------------------------------------


def _check_int(what: str, value: object, low: int, end: int) -> None:
    if type(value) is not int:
        raise InvalidRange(f"{what} is {value!r}: an int is needed")
    if not low <= value < end:
        raise InvalidRange(f"{what} is {value:#x}: it must be {low:#x}..{end - 1:#x}")


def _check_span(what: str, base: int, size: int, end: int) -> None:
    _check_int(f"{what} base", base, 0, end)
    _check_int(f"{what} size", size, 1, end + 1)
    if base + size > end:
        raise InvalidRange(
            f"{what} {base:#x}+{size:#x} ends at {base + size - 1:#x}, "
            f"after the last address {end - 1:#x}"
        )


def _check_address(
    what: str, bounds: tuple[int, int] | None, align: int, size: int, end: int
) -> None:
    _check_int(f"{what} size", size, 1, end + 1)
    _check_int(f"{what} align", align, 1, end + 1)
    if align & (align - 1):
        raise InvalidRange(f"{what} align is {align:#x}: it must be a power of two")
    if bounds is None:
        return
    if type(bounds) is not tuple or len(bounds) != 2:
        raise InvalidRange(f"{what} range is {bounds!r}: (first, last) is needed")
    first, last = bounds
    _check_int(f"{what} range start", first, 0, end)
    _check_int(f"{what} range end", last, 0, end)
    if last - first + 1 < size:
        raise InvalidRange(
            f"{what} range {first:#x}..{last:#x} has no room for {size:#x}"
        )


# --- constraints -------------------------------------------------------------


class ResourceConstraint(Record):
    """One thing that a device needs; what a ResourceManager allocates by."""


class _AddressConstraint(ResourceConstraint, kw_only=True):
    """`size` addresses, aligned to `align`, wholly within `range` if given."""

    size: int
    align: int = 1
    range: tuple[int, int] | None = None
    _what: ClassVar[str]
    _end: ClassVar[int] = ADDRESS_END

    def __post_init__(self) -> None:
        _check_address(self._what, self.range, self.align, self.size, self._end)

    @classmethod
    def at(cls, base: int, size: int) -> Self:
        """Exactly `base`..`base + size - 1` and nothing else."""
        return cls(size=size, range=(base, base + size - 1))


class PioAddressConstraint(_AddressConstraint):
    """A range of ports, 0..0xFFFF."""

    _what = "PIO"
    _end = PIO_END


class MmioAddressConstraint(_AddressConstraint):
    """A range of trapped guest physical addresses."""

    _what = "MMIO"


class MemAddressConstraint(_AddressConstraint):
    """A range of guest physical addresses that memory will back."""

    _what = "memory"


class LegacyIrqConstraint(ResourceConstraint, kw_only=True):
    """One line of the interrupt controllers: `irq` itself, or any that is free.

    `shared` accepts a line that other devices, which said so too, also have. `level`
    wants it level-triggered, as PCI's are; who shares a line agrees about that.
    """

    irq: int | None = None
    shared: bool = False
    level: bool = False

    def __post_init__(self) -> None:
        if self.irq is not None:
            _check_int("IRQ", self.irq, 0, IRQ_END)


class _MsiConstraint(ResourceConstraint, kw_only=True):
    size: int

    def __post_init__(self) -> None:
        _check_int("number of MSIs", self.size, 1, IRQ_END)


class PciMsiIrqConstraint(_MsiConstraint):
    """`size` consecutive interrupts for PCI MSI."""


class PciMsixIrqConstraint(_MsiConstraint):
    """`size` consecutive interrupts for PCI MSI-X."""


class GenericIrqConstraint(_MsiConstraint):
    """`size` consecutive message-signalled interrupts of a non-PCI device."""


class KvmMemSlotConstraint(ResourceConstraint, kw_only=True):
    """`size` consecutive KVM memory slots: those from `slot`, or any."""

    size: int = 1
    slot: int | None = None

    def __post_init__(self) -> None:
        _check_int("number of memory slots", self.size, 1, IRQ_END)
        if self.slot is not None:
            _check_int("memory slot", self.slot, 0, IRQ_END)


# --- resources ---------------------------------------------------------------


class Resource(Record):
    """One thing that a device was given."""


class _AddressRange(Resource):
    base: int
    size: int
    _what: ClassVar[str]
    _end: ClassVar[int] = ADDRESS_END

    def __post_init__(self) -> None:
        _check_span(self._what, self.base, self.size, self._end)


class PioAddressRange(_AddressRange):
    """Ports `base`..`base + size - 1`."""

    _what = "PIO"
    _end = PIO_END


class MmioAddressRange(_AddressRange):
    """Trapped guest physical addresses `base`..`base + size - 1`."""

    _what = "MMIO"


class MemAddressRange(_AddressRange):
    """Guest physical addresses `base`..`base + size - 1` backed by memory."""

    _what = "memory"


class LegacyIrq(Resource):
    """One line of the interrupt controllers."""

    irq: int
    shared: bool = False
    level: bool = False

    def __post_init__(self) -> None:
        _check_int("IRQ", self.irq, 0, IRQ_END)


class MsiIrq(Resource):
    """Message-signalled interrupts `base`..`base + size - 1`."""

    type: MsiIrqType
    base: int
    size: int

    def __post_init__(self) -> None:
        if not isinstance(self.type, MsiIrqType):
            raise InvalidRange(f"MSI type is {self.type!r}: a MsiIrqType is needed")
        _check_span("MSI", self.base, self.size, IRQ_END)


class MacAddress(Resource):
    """A network card's address, as ``52:54:00:12:34:56``."""

    address: str

    def __post_init__(self) -> None:
        if not isinstance(self.address, str) or not re.fullmatch(_MAC, self.address):
            raise InvalidRange(
                f"MAC address is {self.address!r}: six hex bytes with ':' are needed"
            )


class KvmMemSlot(Resource):
    """One KVM memory slot."""

    slot: int

    def __post_init__(self) -> None:
        _check_int("memory slot", self.slot, 0, IRQ_END)


class DeviceResources:
    """The resources of one device, in the order in which it asked for them."""

    __slots__ = ("_resources",)

    def __init__(self, resources: Iterable[Resource] = ()) -> None:
        self._resources: list[Resource] = []
        for resource in resources:
            self.append(resource)

    def append(self, resource: Resource) -> None:
        """Add one resource. Raises UnknownResource for anything else."""
        if not isinstance(resource, Resource):
            raise UnknownResource(f"{resource!r} is not a Resource")
        self._resources.append(resource)

    def get_pio_address_ranges(self) -> list[tuple[int, int]]:
        """(base, size) of each range of ports."""
        return [(r.base, r.size) for r in self._of(PioAddressRange)]

    def get_mmio_address_ranges(self) -> list[tuple[int, int]]:
        """(base, size) of each trapped address range."""
        return [(r.base, r.size) for r in self._of(MmioAddressRange)]

    def get_mem_address_ranges(self) -> list[tuple[int, int]]:
        """(base, size) of each address range that memory backs."""
        return [(r.base, r.size) for r in self._of(MemAddressRange)]

    def get_legacy_irq(self) -> int | None:
        """The first legacy IRQ, or None."""
        return next((r.irq for r in self._of(LegacyIrq)), None)

    def get_pci_msi_irqs(self) -> tuple[int, int] | None:
        """(base, size) of the first PCI MSI block, or None."""
        return self._msi(MsiIrqType.PCI_MSI)

    def get_pci_msix_irqs(self) -> tuple[int, int] | None:
        """(base, size) of the first PCI MSI-X block, or None."""
        return self._msi(MsiIrqType.PCI_MSIX)

    def get_generic_msi_irqs(self) -> tuple[int, int] | None:
        """(base, size) of the first generic MSI block, or None."""
        return self._msi(MsiIrqType.GENERIC)

    def get_kvm_mem_slots(self) -> list[int]:
        """Every KVM memory slot."""
        return [r.slot for r in self._of(KvmMemSlot)]

    def get_mac_address(self) -> str | None:
        """The first MAC address, or None."""
        return next((r.address for r in self._of(MacAddress)), None)

    def get_all_resources(self) -> tuple[Resource, ...]:
        """Everything, in order."""
        return tuple(self._resources)

    def get_interrupts(self) -> list[int]:
        """Every interrupt number in order; an MSI block of n counts n times.

        `DeviceIo.assign_resources` gets one Interrupt for each of these.
        """
        irqs: list[int] = []
        for resource in self._resources:
            if isinstance(resource, LegacyIrq):
                irqs.append(resource.irq)
            elif isinstance(resource, MsiIrq):
                irqs.extend(range(resource.base, resource.base + resource.size))
        return irqs

    def get_level_irqs(self) -> list[int]:
        """Those of `get_interrupts` that are level-triggered."""
        return [r.irq for r in self._of(LegacyIrq) if r.level]

    def __iter__(self) -> Iterator[Resource]:
        return iter(self.get_all_resources())

    def __len__(self) -> int:
        return len(self._resources)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DeviceResources):
            return NotImplemented
        return self._resources == other._resources

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"DeviceResources({self._resources!r})"

    def _of(self, kind: type[_Kind]) -> Iterator[_Kind]:
        return (r for r in self._resources if isinstance(r, kind))

    def _msi(self, kind: MsiIrqType) -> tuple[int, int] | None:
        blocks = ((r.base, r.size) for r in self._of(MsiIrq) if r.type is kind)
        return next(blocks, None)
