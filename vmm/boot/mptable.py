"""The MP table: tells a kernel without ACPI of the CPUs, the IOAPIC and ISA IRQs.

Source: Intel MultiProcessor Specification 1.4, chapter 4.
"""

import struct
from collections.abc import Iterable
from typing import Final

from .layout import IOAPIC, LAPIC

MPC_VERSION: Final = 4  # specification 1.4
LAPIC_VERSION: Final = 0x14
IOAPIC_VERSION: Final = 0x11
CPU_ENABLED: Final = 1
CPU_BOOTPROCESSOR: Final = 2
CPU_STEPPING: Final = 0x600
CPU_FEATURE_APIC_FPU: Final = 0x201
INT, NMI, EXTINT = 0, 1, 3  # interrupt types
BUS_PCI: Final = 0  # if there is one: numbered as by itself
ISA_IRQS: Final = 16
ALL_LAPICS: Final = 0xFF

MP_PROCESSOR, MP_BUS, MP_IOAPIC, MP_INTSRC, MP_LINTSRC = range(5)
_FLOATING_POINTER_SIZE: Final = 16
ACTIVE_LOW_LEVEL: Final = 3 | 3 << 2  # 0: as the bus has it, of ISA rising edges


def mp_table(
    address: int,
    cpus: int,
    level_irqs: Iterable[int] = (),
    pci_lines: Iterable[tuple[int, int]] | None = None,
) -> bytes:
    """The floating pointer and, behind it, the table; to be put at `address`.

    `cpus` is 1..254. ISA IRQ n is wired to IOAPIC pin n, as KVM's default routing has
    it; `level_irqs` are level-triggered. `pci_lines` are of a PCI bus, if there is one,
    (slot, IOAPIC pin) of each function's INTA#.
    """
    ioapic_id = cpus  # ids are unique among CPUs and IOAPICs
    flags = dict.fromkeys(level_irqs, ACTIVE_LOW_LEVEL)
    bus_isa = 0 if pci_lines is None else BUS_PCI + 1
    entries = [
        struct.pack(
            "<BBBBII8x",
            MP_PROCESSOR,
            cpu,
            LAPIC_VERSION,
            CPU_ENABLED | (CPU_BOOTPROCESSOR if cpu == 0 else 0),
            CPU_STEPPING,
            CPU_FEATURE_APIC_FPU,
        )
        for cpu in range(cpus)
    ]
    if pci_lines is not None:
        entries.append(struct.pack("<BB6s", MP_BUS, BUS_PCI, b"PCI   "))
    entries.append(struct.pack("<BB6s", MP_BUS, bus_isa, b"ISA   "))
    entries.append(
        struct.pack("<BBBBI", MP_IOAPIC, ioapic_id, IOAPIC_VERSION, 1, IOAPIC)
    )
    entries += [
        struct.pack(
            "<BBHBBBB", MP_INTSRC, INT, flags.get(irq, 0), bus_isa, irq, ioapic_id, irq
        )
        for irq in range(ISA_IRQS)
    ]
    entries += [
        struct.pack("<BBHBBBB", MP_INTSRC, INT, 0, BUS_PCI, slot << 2, ioapic_id, pin)
        for slot, pin in pci_lines or ()
    ]
    entries += [
        struct.pack("<BBHBBBB", MP_LINTSRC, kind, 0, bus_isa, 0, ALL_LAPICS, pin)
        for pin, kind in enumerate((EXTINT, NMI))
    ]
    body = b"".join(entries)
    header = struct.pack(
        "<4sHBB8s12sIHHIHBx",
        b"PCMP",
        44 + len(body),
        MPC_VERSION,
        0,
        b"MINIVMM ",
        b"MINIVMM     ",
        0,
        0,
        len(entries),
        LAPIC,
        0,
        0,
    )
    table = _with_checksum(header + body, 7)
    pointer = struct.pack(
        "<4sIBBB5x", b"_MP_", address + _FLOATING_POINTER_SIZE, 1, MPC_VERSION, 0
    )
    return _with_checksum(pointer, 10) + table


def _with_checksum(block: bytes, at: int) -> bytes:
    """`block`, whose byte `at` is zero, with that byte making its sum zero."""
    return block[:at] + bytes([-sum(block) & 0xFF]) + block[at + 1 :]
