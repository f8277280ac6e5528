"""What a machine has, for people to look at: devices, and where a guest finds them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, TypeAlias, cast

from ..boot import layout
from ..devices.device_io import DeviceIo
from ..devices.record import Record
from ..devices.resources import DeviceResources, LegacyIrq, MsiIrq
from ..memory import Range
from .kvm_wiring import class_name

if TYPE_CHECKING:  # most machines have none
    from ..devices.pci.device import PciDevice

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""(first, last), both included."""


class DeviceRow(Record):
    """One device, by its class; or RAM, or what KVM has itself.

    `slot` is its PCI slot. `lines` are its interrupts at the IOAPIC, some of which it
    may share, and `messages` how many it has beside them. `ports` and `addresses` are
    as it was given them; of a PCI device those of its BARs, which a guest may move.
    """

    device: str
    slot: int | None = None
    lines: tuple[int, ...] = ()
    messages: int = 0
    ports: Ranges = ()
    addresses: Ranges = ()


_KVMS: Final = (
    DeviceRow("KVM's 8259A", ports=((0x20, 0x21), (0xA0, 0xA1), (0x4D0, 0x4D1))),
    DeviceRow("KVM's 8254", lines=(0,), ports=((0x40, 0x43), (0x61, 0x61))),
    DeviceRow(
        "KVM's IOAPIC",
        addresses=((layout.IOAPIC, layout.IOAPIC + layout.PAGE_SIZE - 1),),
    ),
    DeviceRow(
        "KVM's LAPIC", addresses=((layout.LAPIC, layout.LAPIC + layout.PAGE_SIZE - 1),)
    ),
)


def devices_table(ram: Iterable[Range], devices: Iterable[DeviceIo]) -> list[DeviceRow]:
    """All of it: RAM, KVM's own, and what is plugged in, in order."""
    places = tuple((at, at + size - 1) for at, size in ram)
    return [DeviceRow("RAM", addresses=places), *_KVMS, *map(_row, devices)]


def _row(device: DeviceIo) -> DeviceRow:
    resources = device.get_assigned_resources()
    return DeviceRow(
        class_name(device),
        slot=cast("PciDevice", device).slot if device.is_pci else None,
        lines=tuple(line.irq for line in resources if isinstance(line, LegacyIrq)),
        messages=sum(msi.size for msi in resources if isinstance(msi, MsiIrq)),
        ports=_ends(resources.get_pio_address_ranges()),
        addresses=_addresses(resources),
    )


def _addresses(resources: DeviceResources) -> Ranges:
    trapped = resources.get_mmio_address_ranges()
    return _ends([*trapped, *resources.get_mem_address_ranges()])


def _ends(ranges: Iterable[tuple[int, int]]) -> Ranges:
    return tuple((base, base + size - 1) for base, size in ranges)
