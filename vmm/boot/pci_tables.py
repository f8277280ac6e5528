"""PciTables: what firmware tells of a PCI bus: where it is, and how it interrupts.

Sources: PCI Firmware Specification 3.2, sections 4.1.2 (MCFG) and 4.6 (host bridges in
ACPI); ACPI Specification 6.5, section 6.2.13 (_PRT); Intel MultiProcessor Specification
1.4, section D.3.
"""

import struct
from typing import Final

from ..devices.pci.windows import PciWindows
from ..devices.record import Record
from ..devices.resources import MmioAddressRange, PioAddressRange
from . import aml
from .layout import PCI_ECAM

SLOTS: Final = 32
_CONFIG_PORTS: Final = PioAddressRange(0xCF8, 8)
_ANY_FUNCTION: Final = 0xFFFF
_INTA: Final = 0


class PciTables(Record):
    """One bus, number 0, behind one host bridge.

    `irq` is what INTA# of all slots is wired to, the IOAPIC's pin of that number. There
    are no other lines, as each slot has one function.
    """

    windows: PciWindows
    irq: int

    def mcfg(self) -> bytes:
        """The body of ACPI's table: where configuration space is in memory."""
        segment = first_bus = last_bus = 0
        return struct.pack(
            "<8xQHBB4x", PCI_ECAM.guest_addr, segment, first_bus, last_bus
        )

    def devices(self) -> list[bytes]:
        """The host bridge, and one that keeps others off configuration space.

        Linux uses the latter only if it finds it reserved like that, or in the memory
        map: arch/x86/pci/mmconfig-shared.c.
        """
        windows = self.windows
        bridge = aml.device(
            "PCI0",
            aml.name("_HID", aml.hardware_id("PNP0A08")),
            aml.name("_CID", aml.hardware_id("PNP0A03")),
            aml.name("_UID", aml.integer(0)),
            aml.name("_SEG", aml.integer(0)),
            aml.name("_BBN", aml.integer(0)),
            aml.name(
                "_CRS",
                aml.resource_template(
                    [_CONFIG_PORTS],
                    aml.bus_numbers(0, 0),
                    aml.io_window(*windows.io),
                    aml.memory_window(*windows.mem32),
                    aml.memory_window(*windows.mem64),
                ),
            ),
            aml.name("_PRT", aml.package(*map(self._route, range(SLOTS)))),
        )
        ecam = MmioAddressRange(*PCI_ECAM)
        reservation = aml.device(
            "ECAM",
            aml.name("_HID", aml.hardware_id("PNP0C02")),
            aml.name("_UID", aml.string("ECAM")),
            aml.name("_CRS", aml.resource_template([ecam])),
        )
        return [bridge, reservation]

    def _route(self, slot: int) -> bytes:
        """Of a slot's pin, to a global system interrupt: to no link device, 0."""
        address = slot << 16 | _ANY_FUNCTION
        return aml.package(*map(aml.integer, (address, _INTA, 0, self.irq)))

    def lines(self) -> list[tuple[int, int]]:
        """(slot, IOAPIC pin), for an MP table."""
        return [(slot, self.irq) for slot in range(SLOTS)]
