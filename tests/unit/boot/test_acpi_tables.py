"""ACPI tables: their links and sums, what they say, and what iasl makes of them."""

import re
import shutil
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.guests import refuse

from vmm.boot.acpi import acpi_tables
from vmm.boot.layout import ACPI, ACPI_SIZE, PCI_IO, PCI_MEM32, pci_mem64, ram_ranges
from vmm.boot.pci_tables import PciTables
from vmm.config import CPUS_MAX
from vmm.devices.acpi_device import AcpiDevice
from vmm.devices.pc.platform import ACPI_PM
from vmm.devices.pci.windows import PciWindows
from vmm.devices.resources import (
    DeviceResources,
    LegacyIrq,
    MemAddressRange,
    MmioAddressRange,
    PioAddressRange,
)
from vmm.errors import ConfigError

COM1 = AcpiDevice("PNP0501", DeviceResources([PioAddressRange(0x3F8, 8), LegacyIrq(4)]))
COM2 = AcpiDevice("PNP0501", DeviceResources([PioAddressRange(0x2F8, 8), LegacyIrq(3)]))
PVPANIC = AcpiDevice("QEMU0001", DeviceResources([PioAddressRange(0x505, 1)]))
VIRTIO = AcpiDevice(
    "LNRO0005", DeviceResources([MmioAddressRange(0xE800_0000, 0x200), LegacyIrq(5)])
)
BIG = AcpiDevice(
    "ABCD1234",
    DeviceResources(
        [
            PioAddressRange(0x1000, 0x400),
            MemAddressRange(1 << 33, 1 << 20),
            MmioAddressRange(1 << 38, 1 << 16),
            LegacyIrq(5, shared=True),
        ]
    ),
)
GENERATION = AcpiDevice(
    "MVMM0001",
    DeviceResources(),
    compatible=("VM_Gen_Counter", "VMGENCTR", "PNP0C02"),
    description="VM_Gen_Counter",
    packages={"ADDR": (0xD1010, 1)},
    events=DeviceResources([LegacyIrq(23)]),
)
DEVICES = (COM1, COM2, GENERATION, PVPANIC, VIRTIO, BIG)
PCI = PciTables(PciWindows(PCI_IO, PCI_MEM32, pci_mem64(ram_ranges(1 << 30))), 11)


class Tables(dict[str, bytes]):
    """The tables of one machine by signature, found as an OS does."""

    def __init__(
        self,
        cpus: int = 1,
        devices: Iterable[AcpiDevice] = DEVICES,
        level_irqs: Iterable[int] = (),
        pci: PciTables | None = None,
    ) -> None:
        self.blob = acpi_tables(cpus, devices, level_irqs, pci)
        self.rsdp = self.blob[:36]
        (xsdt,) = struct.unpack_from("<Q", self.rsdp, 24)
        self._add(xsdt)
        for (address,) in struct.iter_unpack("<Q", self["XSDT"][36:]):
            self._add(address)
        self.facs, dsdt = struct.unpack_from("<II", self["FACP"], 36)
        self._add(self.facs)
        self._add(dsdt)

    def _add(self, address: int) -> None:
        at = address - ACPI
        (size,) = struct.unpack_from("<I", self.blob, at + 4)
        table = self.blob[at : at + size]
        assert len(table) == size
        self[table[:4].decode()] = table

    def write(self, folder: Path) -> list[Path]:
        paths = [folder / f"{name.lower()}.dat" for name in self]
        for path, table in zip(paths, self.values(), strict=True):
            path.write_bytes(table)
        return paths

    def madt(self) -> list[bytes]:
        """Its entries."""
        entries, rest = [], self["APIC"][44:]
        while rest:
            entries.append(rest[: rest[1]])
            rest = rest[rest[1] :]
        return entries


def iasl(folder: Path, *arguments: str) -> str:
    """Run it in `folder`; what it says."""
    if shutil.which("iasl") is None:
        refuse("iasl is missing: run scripts/test, or install acpica-tools")
    done = subprocess.run(
        ["iasl", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr


# How an OS finds them


def test_the_pointer_is_where_a_scan_looks_and_sums_to_zero() -> None:
    rsdp = Tables().rsdp
    assert 0xE0000 <= ACPI < 0x100000
    assert ACPI % 16 == 0
    assert (rsdp[:8], rsdp[15]) == (b"RSD PTR ", 2)
    assert sum(rsdp[:20]) % 256 == sum(rsdp) % 256 == 0


@pytest.mark.parametrize("cpus", [1, 2, CPUS_MAX])
def test_all_tables_are_linked_and_sum_to_zero(cpus: int) -> None:
    tables = Tables(cpus)
    assert set(tables) == {"XSDT", "FACP", "APIC", "FACS", "DSDT"}
    for name in set(tables) - {"FACS"}:
        assert sum(tables[name]) % 256 == 0, name


def test_the_facs_is_aligned_to_64_bytes() -> None:
    assert Tables().facs % 64 == 0


# What they say


def test_fadt_points_at_the_pm1_registers_by_both_generations_of_fields() -> None:
    fadt = Tables()["FACP"]
    assert struct.unpack_from("<2I", fadt, 56) == (ACPI_PM, 0)
    assert struct.unpack_from("<2I", fadt, 64) == (ACPI_PM + 4, 0)
    assert fadt[148:160] == struct.pack("<BBBBQ", 1, 32, 0, 2, ACPI_PM)
    assert fadt[172:184] == struct.pack("<BBBBQ", 1, 16, 0, 2, ACPI_PM + 4)
    assert struct.unpack_from("<I", fadt, 40) == struct.unpack_from("<I", fadt, 140)


def test_fadt_resets_by_the_i8042() -> None:
    fadt = Tables()["FACP"]
    (flags,) = struct.unpack_from("<I", fadt, 112)
    assert flags & 1 << 10
    assert fadt[116:129] == struct.pack("<BBBBQB", 1, 8, 0, 1, 0x64, 0xFE)


def test_fadt_has_a_keyboard_controller_and_no_buttons_no_vga_no_aspm() -> None:
    fadt = Tables()["FACP"]
    assert struct.unpack_from("<H", fadt, 109) == (0b10111,)
    assert struct.unpack_from("<I", fadt, 112)[0] & 0b111_0000 == 0b111_0000


def test_madt_lists_each_cpu_by_its_apic_id() -> None:
    cpus = [entry for entry in Tables(3).madt() if entry[0] == 0]
    assert cpus == [struct.pack("<BBBBI", 0, 8, n, n, 1) for n in range(3)]


def test_madt_overrides_what_is_level_triggered() -> None:
    overrides = [entry for entry in Tables(level_irqs=[5]).madt() if entry[0] == 2]
    assert overrides == [
        struct.pack("<BBBBIH", 2, 10, 0, irq, irq, flags)
        for irq, flags in ((5, 0x0F), (9, 0x0D))
    ]


def test_madt_has_the_ioapic_the_sci_and_nmi() -> None:
    others = [entry for entry in Tables().madt() if entry[0] != 0]
    assert others == [
        struct.pack("<BBBBII", 1, 12, 0, 0, 0xFEC0_0000, 0),
        struct.pack("<BBBBIH", 2, 10, 0, 9, 9, 0x0D),
        struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1),
    ]


def test_devices_of_one_kind_have_numbers_of_their_own(tmp_path: Path) -> None:
    text = disassembled(Tables(), tmp_path)
    found = re.findall(r'"(PNP0501|QEMU0001)".*\n *Name \(_UID, (\w+)\)', text)
    assert found == [("PNP0501", "Zero"), ("PNP0501", "One"), ("QEMU0001", "Zero")]


def test_an_event_device_notifies_the_driver_of_what_has_events(
    tmp_path: Path,
) -> None:
    text = disassembled(Tables(devices=[COM1, GENERATION]), tmp_path)
    text = " ".join(re.sub(r"//.*", "", text).split())
    device = text.partition("Device (D001) {")[2]
    assert 'Name (_CID, Package (0x03) { "VM_Gen_Counter", "VMGENCTR", ' in device
    assert "_CRS" not in device.partition("Device (")[0]
    assert 'Name (_DDN, "VM_Gen_Counter")' in device
    assert "Name (ADDR, Package (0x02) { 0x000D1010, One })" in device
    events = device.partition("Device (E001) {")[2]
    assert 'Name (_HID, "ACPI0013"' in events
    interrupt = "Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )"
    assert f"{interrupt} {{ 0x00000017, }}" in events
    assert "Method (_EVT, 1, Serialized" in events
    assert "Notify (D001, 0x80" in events
    assert text.count("ACPI0013") == 1


# PCI


def test_mcfg_has_configuration_space_of_the_one_bus() -> None:
    mcfg = Tables(pci=PCI)["MCFG"]
    assert sum(mcfg) % 256 == 0
    assert mcfg[36:44] == bytes(8)
    assert struct.unpack("<QHBB4x", mcfg[44:]) == (0xE000_0000, 0, 0, 0)
    assert "MCFG" not in Tables()


def test_the_host_bridge_has_its_windows_and_lines(tmp_path: Path) -> None:
    text = disassembled(Tables(pci=PCI), tmp_path)
    text = " ".join(re.sub(r"//.*", "", text).split())
    bridge = text.partition("Device (PCI0) {")[2].partition("Device (")[0]
    assert 'Name (_HID, EisaId ("PNP0A08") /* PCI Express Bus */)' in bridge
    assert 'Name (_CID, EisaId ("PNP0A03") /* PCI Bus */)' in bridge
    assert bridge.count("ResourceConsumer") == 0
    assert "IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08, )" in bridge
    assert "WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode," in bridge
    for window in ("0xC000, 0xFFFF", "0xE0100000, 0xFBFFFFFF"):
        assert window in bridge
    assert "0x0000006000000000, 0x0000007FFFFFFFFF" in bridge
    routes = re.findall(r"Package \(0x04\) { (\w+), Zero, Zero, 0x0B }", bridge)
    assert [int(route, 16) for route in routes] == [n << 16 | 0xFFFF for n in range(32)]


def test_configuration_space_is_nobody_elses(tmp_path: Path) -> None:
    text = disassembled(Tables(pci=PCI), tmp_path)
    reserved = text.partition("Device (ECAM)")[2].partition("Device (")[0]
    assert 'EisaId ("PNP0C02")' in reserved
    assert "0x00000000E0000000, // Range Minimum" in reserved
    assert "0x00000000E00FFFFF, // Range Maximum" in reserved


# What doesn't fit


def test_more_devices_than_there_is_room_for_are_refused_with_the_numbers() -> None:
    needed = r"acpi: the tables of 4000 devices take \d+ bytes, and there are 65536"
    with pytest.raises(ConfigError, match=f"^{needed} for them at 0xe0000") as error:
        acpi_tables(1, [COM1] * 4000)
    assert error.value.exit_code == 2


def test_more_devices_than_there_are_names_for_are_refused_with_the_numbers() -> None:
    with pytest.raises(
        ConfigError, match=r"^acpi: 4097 devices are more than the 4096"
    ):
        acpi_tables(1, [COM1] * 4097)


def test_a_thousand_devices_fit() -> None:
    assert len(acpi_tables(1, [COM1] * 1000)) <= ACPI_SIZE


# What the reference implementation says


def disassembled(tables: Tables, folder: Path) -> str:
    tables.write(folder)
    iasl(folder, "-d", "dsdt.dat")
    return (folder / "dsdt.dsl").read_text()


@pytest.mark.parametrize("cpus", [1, CPUS_MAX])
def test_iasl_reads_every_table_without_a_warning(cpus: int, tmp_path: Path) -> None:
    for path in Tables(cpus, pci=PCI).write(tmp_path):
        said = iasl(tmp_path, "-d", path.name)
        text = path.with_suffix(".dsl").read_text()
        for problem in ("error", "warning", "invalid", "unknown", "incorrect"):
            assert problem not in said.lower()
            assert problem not in text.lower()


def test_iasl_compiles_what_it_read_to_the_same_bytes(tmp_path: Path) -> None:
    tables = Tables(2, pci=PCI)
    disassembled(tables, tmp_path)
    said = iasl(tmp_path, "-p", "again", "dsdt.dsl")
    assert "0 Errors, 0 Warnings, 0 Remarks" in said
    assert (tmp_path / "again.aml").read_bytes()[36:] == tables["DSDT"][36:]
