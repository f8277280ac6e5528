"""ACPI tables: what firmware would have told of CPUs, power and devices.

Source: ACPI Specification 6.5, chapter 5; register blocks in section 4.8.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from ..devices.acpi_device import AcpiDevice
from ..devices.pc.acpi_pm import PM1_CNT, PM1_STS, SLP_TYP_S5
from ..devices.pc.calendar_registers import RTC_CENTURY
from ..devices.pc.platform import ACPI_PM, ACPI_SCI
from ..errors import ConfigError
from . import aml
from .layout import ACPI, ACPI_SIZE, IOAPIC, LAPIC

if TYPE_CHECKING:  # most machines have none
    from .pci_tables import PciTables

OEM: Final = b"MINVMM"
OEM_TABLE: Final = b"MINIVMM "
REVISION: Final = 1
DEVICES_MAX: Final = 0x1000  # D000 to DFFF
_HEADER: Final = struct.Struct("<4sIBB6s8sI4sI")

# FADT, revision 6.5: offsets of what isn't zero (section 5.2.9)
FADT_SIZE: Final = 276
FIRMWARE_CTRL: Final = 36
DSDT: Final = 40
SCI_INT: Final = 46
PM1A_EVT_BLK: Final = 56
PM1A_CNT_BLK: Final = 64
PM1_EVT_LEN: Final = 88
PM1_CNT_LEN: Final = 89
P_LVL2_LAT: Final = 96
P_LVL3_LAT: Final = 98
CENTURY: Final = 108
IAPC_BOOT_ARCH: Final = 109
FLAGS: Final = 112
RESET_REG: Final = 116
RESET_VALUE: Final = 128
FADT_MINOR: Final = 131
X_DSDT: Final = 140
X_PM1A_EVT_BLK: Final = 148
X_PM1A_CNT_BLK: Final = 172

LEGACY_DEVICES: Final = 1 << 0
HAS_8042: Final = 1 << 1
VGA_NOT_PRESENT: Final = 1 << 2
NO_ASPM: Final = 1 << 4

WBINVD: Final = 1 << 0
PROC_C1: Final = 1 << 2
NO_PWR_BUTTON: Final = 1 << 4  # in fixed hardware, as the next two
NO_SLP_BUTTON: Final = 1 << 5
NO_RTC_WAKE: Final = 1 << 6
RESET_REG_SUP: Final = 1 << 10

NO_C2: Final = 101  # a latency in µs that says so
NO_C3: Final = 1001

# The i8042 pulses the reset line: command 0xFE at its command port.
RESET_PORT: Final = 0x64
RESET_COMMAND: Final = 0xFE

# MADT (section 5.2.12)
PCAT_COMPAT: Final = 1  # there are two 8259s, too
CPU_ENABLED: Final = 1
ACTIVE_HIGH_LEVEL: Final = 1 | 3 << 2  # as the SCI, of which nobody else hears
ACTIVE_LOW_LEVEL: Final = 3 | 3 << 2  # as PCI's lines
ALL_CPUS: Final = 0xFF
NMI_LINT: Final = 1

_EVENT_DEVICE: Final = "ACPI0013"
STATUS_CHANGE: Final = 0x80  # the first of the notifications that mean what one likes


def acpi_tables(
    cpus: int,
    devices: Iterable[AcpiDevice],
    level_irqs: Iterable[int] = (),
    pci: "PciTables | None" = None,
) -> bytes:
    """All tables, the RSDP first; to be put at `layout.ACPI`. `cpus` is 1..255.

    Of the ISA IRQs `level_irqs` are level-triggered, and the SCI. `pci` is what there
    is to say of a PCI bus, if there is one. Raises ConfigError if so many devices don't
    fit there.
    """
    devices = list(devices)
    if len(devices) > DEVICES_MAX:
        raise ConfigError(
            f"acpi: {len(devices)} devices are more than the {DEVICES_MAX} that the "
            "tables have names for: plug in fewer, or pass --no-acpi"
        )
    blob = bytearray(_align(36))  # for the RSDP, which comes when all is known

    def place(table: bytes, align: int = 16) -> int:
        blob.extend(bytes(-len(blob) % align))
        blob.extend(table)
        return ACPI + len(blob) - len(table)

    facs = place(_facs(), align=64)
    dsdt = place(_dsdt(cpus, devices, pci))
    tables = [place(_fadt(facs, dsdt)), place(_madt(cpus, level_irqs))]
    if pci is not None:
        tables.append(place(_table(b"MCFG", 1, pci.mcfg())))
    entries = struct.pack(f"<{len(tables)}Q", *tables)
    xsdt = place(_table(b"XSDT", 1, entries))
    if len(blob) > ACPI_SIZE:
        raise ConfigError(
            f"acpi: the tables of {len(devices)} devices take {len(blob)} bytes, and "
            f"there are {ACPI_SIZE} for them at {ACPI:#x}: plug in fewer, or pass "
            "--no-acpi"
        )
    blob[:36] = _rsdp(xsdt)
    return bytes(blob)


def _align(size: int) -> int:
    return -(-size // 16) * 16


def _checksummed(block: bytes, at: int, size: int | None = None) -> bytes:
    """`block`, whose byte `at` is zero, with the sum of its first `size` made zero."""
    return block[:at] + bytes([-sum(block[:size]) & 0xFF]) + block[at + 1 :]


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    size = _HEADER.size + len(body)
    header = _HEADER.pack(
        signature, size, revision, 0, OEM, OEM_TABLE, REVISION, b"MVMM", REVISION
    )
    return _checksummed(header + body, 9)


def _rsdp(xsdt: int) -> bytes:
    """The pointer to all else: no RSDT, which has 32-bit addresses."""
    rsdp = struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, OEM, 2, 0, 36, xsdt, 0)
    return _checksummed(_checksummed(rsdp, 8, 20), 32)


def _facs() -> bytes:
    """Where firmware and OS would share a lock; nobody here takes it."""
    return struct.pack("<4sI24xB31x", b"FACS", 64, 2)


def _io_register(port: int, bits: int) -> bytes:
    """A Generic Address Structure for a port (section 5.2.3.2)."""
    system_io, access = 1, {8: 1, 16: 2, 32: 2}[bits]
    return struct.pack("<BBBBQ", system_io, bits, 0, access, port)


def _fadt(facs: int, dsdt: int) -> bytes:
    fadt = bytearray(FADT_SIZE)

    def put(at: int, form: str, value: int) -> None:
        struct.pack_into("<" + form, fadt, at, value)

    put(FIRMWARE_CTRL, "I", facs)
    put(DSDT, "I", dsdt)
    put(X_DSDT, "Q", dsdt)
    put(SCI_INT, "H", ACPI_SCI)
    events, control = ACPI_PM + PM1_STS, ACPI_PM + PM1_CNT
    put(PM1A_EVT_BLK, "I", events)
    put(PM1_EVT_LEN, "B", 4)
    fadt[X_PM1A_EVT_BLK : X_PM1A_EVT_BLK + 12] = _io_register(events, 32)
    put(PM1A_CNT_BLK, "I", control)
    put(PM1_CNT_LEN, "B", 2)
    fadt[X_PM1A_CNT_BLK : X_PM1A_CNT_BLK + 12] = _io_register(control, 16)
    put(P_LVL2_LAT, "H", NO_C2)
    put(P_LVL3_LAT, "H", NO_C3)
    put(CENTURY, "B", RTC_CENTURY)
    arch = LEGACY_DEVICES | HAS_8042 | VGA_NOT_PRESENT | NO_ASPM
    put(IAPC_BOOT_ARCH, "H", arch)
    absent = NO_PWR_BUTTON | NO_SLP_BUTTON | NO_RTC_WAKE
    put(FLAGS, "I", WBINVD | PROC_C1 | absent | RESET_REG_SUP)
    fadt[RESET_REG : RESET_REG + 12] = _io_register(RESET_PORT, 8)
    put(RESET_VALUE, "B", RESET_COMMAND)
    put(FADT_MINOR, "B", 5)
    return _table(b"FACP", 6, bytes(fadt[_HEADER.size :]))


def _madt(cpus: int, level_irqs: Iterable[int]) -> bytes:
    """CPU n has the APIC id n, as in KVM, whose IOAPIC takes IRQ n at its pin n.

    That is why IRQ 0 has no override to pin 2, as it has on a PC.
    """
    entries = [struct.pack("<BBBBI", 0, 8, at, at, CPU_ENABLED) for at in range(cpus)]
    entries.append(struct.pack("<BBBBII", 1, 12, 0, 0, IOAPIC, 0))
    flags = dict.fromkeys(level_irqs, ACTIVE_LOW_LEVEL) | {ACPI_SCI: ACTIVE_HIGH_LEVEL}
    entries += [
        struct.pack("<BBBBIH", 2, 10, 0, irq, irq, flags[irq]) for irq in sorted(flags)
    ]
    entries.append(struct.pack("<BBBHB", 4, 6, ALL_CPUS, 0, NMI_LINT))
    body = struct.pack("<II", LAPIC, PCAT_COMPAT) + b"".join(entries)
    return _table(b"APIC", 5, body)


def _dsdt(cpus: int, devices: Sequence[AcpiDevice], pci: "PciTables | None") -> bytes:
    """\\_S5, by which the OS knows how to switch off, CPUs, PCI's bus and devices."""
    soft_off = aml.package(*map(aml.integer, (SLP_TYP_S5, SLP_TYP_S5, 0, 0)))
    namespace = [_cpu_device(index) for index in range(cpus)]
    if pci is not None:
        namespace += pci.devices()
    numbers: Counter[str] = Counter()
    for index, device in enumerate(devices):
        namespace.append(_device(index, device, numbers[device.hid]))
        numbers[device.hid] += 1
        if len(device.events):
            namespace.append(_event_device(index, device, numbers[_EVENT_DEVICE]))
            numbers[_EVENT_DEVICE] += 1
    body = aml.name("_S5", soft_off) + aml.scope("_SB", *namespace)
    return _table(b"DSDT", 2, body)


def _cpu_device(index: int) -> bytes:
    return aml.device(
        f"C{index:03X}",
        aml.name("_HID", aml.hardware_id("ACPI0007")),
        aml.name("_UID", aml.integer(index)),
    )


def _device(index: int, device: AcpiDevice, uid: int) -> bytes:
    terms = [
        aml.name("_HID", aml.hardware_id(device.hid)),
        aml.name("_UID", aml.integer(uid)),
    ]
    if len(device.resources):
        terms.append(aml.name("_CRS", aml.resource_template(list(device.resources))))
    if device.compatible:
        names = map(aml.hardware_id, device.compatible)
        terms.append(aml.name("_CID", aml.package(*names)))
    if device.description:
        terms.append(aml.name("_DDN", aml.string(device.description)))
    for segment, numbers in device.packages.items():
        package = aml.package(*map(aml.integer, numbers))
        terms.append(aml.name(segment, package))
    return aml.device(f"D{index:03X}", *terms)


def _event_device(index: int, device: AcpiDevice, uid: int) -> bytes:
    """The one that takes interrupts for `device`, number `index` (section 5.6.9)."""
    return aml.device(
        f"E{index:03X}",
        aml.name("_HID", aml.hardware_id(_EVENT_DEVICE)),
        aml.name("_UID", aml.integer(uid)),
        aml.name("_CRS", aml.resource_template(list(device.events))),
        aml.method("_EVT", 1, aml.notify(f"D{index:03X}", STATUS_CHANGE)),
    )
