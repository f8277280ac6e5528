"""What firmware would have left: descriptors, page tables, the MP table."""

import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

import pytest

from vmm.boot import cpu_state
from vmm.boot.layout import BIOS, BOOT_PARAMS, GDT, GIB, MP_TABLE, PML4
from vmm.boot.mptable import mp_table
from vmm.boot.placement import write_blocks
from vmm.boot.protected_mode import LOADER_CS, gdt32, set_protected_mode_cpu
from vmm.config import CPUS_MAX
from vmm.kvm.abi import kvm_regs, kvm_sregs
from vmm.memory import GuestMemory, Range

if TYPE_CHECKING:
    from vmm.kvm.vcpu import Vcpu

# Descriptors and page tables (Intel SDM volume 3, figures 3-8 and 4-11)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory([Range(0, 1 << 20)])
    write_blocks(memory, cpu_state.boot_blocks())
    yield memory
    memory.close()


def quadwords(memory: GuestMemory, address: int, count: int) -> list[int]:
    return list(struct.unpack(f"<{count}Q", memory.read(address, 8 * count)))


def test_gdt_holds_the_linux_boot_descriptors(memory: GuestMemory) -> None:
    assert quadwords(memory, GDT, 6) == [
        0,
        0,
        0x00AF_9B00_0000_FFFF,  # __BOOT_CS: flat 64-bit code
        0x00CF_9300_0000_FFFF,  # __BOOT_DS: flat data
        0x0000_8B00_0000_0067,  # busy 64-bit TSS ...
        0,  # ... whose second half is zero
    ]


def test_descriptor_scatters_base_and_limit() -> None:
    segment = cpu_state.task_segment()
    segment.base, segment.limit = 0x1234_5678, 0x000A_BCDE
    assert cpu_state.descriptor(segment) == 0x120A_8B34_5678_BCDE


def translate(memory: GuestMemory, address: int) -> int:
    """Walk the page tables as the CPU does, for 2 MiB pages."""
    table = PML4
    for shift in (39, 30):
        entry = quadwords(memory, table + 8 * (address >> shift & 511), 1)[0]
        assert entry & 0x83 == 0b11  # present, writable, no large page
        table = entry & ~0xFFF
    entry = quadwords(memory, table + 8 * (address >> 21 & 511), 1)[0]
    assert entry & 0x83 == 0x83
    return entry & ~0xFFF | address & 0x1F_FFFF


@pytest.mark.parametrize("address", [0, 0x7000, 0x100_0000, GIB, 4 * GIB - 1])
def test_first_4_gib_are_mapped_to_themselves(
    memory: GuestMemory, address: int
) -> None:
    assert translate(memory, address) == address


def test_nothing_above_4_gib_is_mapped(memory: GuestMemory) -> None:
    assert not any(quadwords(memory, PML4 + 8, 511))
    assert not any(quadwords(memory, PML4 + 0x1000 + 4 * 8, 508))


# Registers (boot.rst, "64-bit Boot Protocol")


class RecordingVcpu:
    """Takes registers as KVM would, and keeps them."""

    def __init__(self) -> None:
        self.sregs = kvm_sregs()
        self.regs = kvm_regs()
        self.msrs: dict[int, int] = {}

    def get_sregs(self) -> kvm_sregs:
        return self.sregs

    def set_sregs(self, sregs: kvm_sregs) -> None:
        self.sregs = sregs

    def set_regs(self, regs: kvm_regs) -> None:
        self.regs = regs

    def set_msrs(self, values: Sequence[tuple[int, int]]) -> int:
        self.msrs = dict(values)
        return len(values)


@pytest.fixture
def vcpu() -> RecordingVcpu:
    vcpu = RecordingVcpu()
    cpu_state.set_boot_cpu(cast("Vcpu", vcpu), 0x100_0200)
    return vcpu


def test_boot_cpu_is_in_long_mode_with_paging(vcpu: RecordingVcpu) -> None:
    assert vcpu.sregs.cr0 & (1 << 31 | 1) == 1 << 31 | 1  # PG, PE
    assert vcpu.sregs.cr4 & 1 << 5  # PAE
    assert vcpu.sregs.efer == 1 << 8 | 1 << 10  # LME, LMA
    assert vcpu.sregs.cr3 == PML4


def test_boot_cpu_has_the_segments_of_the_gdt(vcpu: RecordingVcpu) -> None:
    sregs = vcpu.sregs
    data = [sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss]
    assert sregs.cs.selector == 0x10
    assert sregs.cs.l == 1
    assert [segment.selector for segment in data] == [0x18] * 5
    assert sregs.tr.selector == 0x20
    assert (sregs.gdt.base, sregs.gdt.limit) == (GDT, 47)


def test_boot_cpu_enters_with_interrupts_off_and_rsi_at_boot_params(
    vcpu: RecordingVcpu,
) -> None:
    assert vcpu.regs.rip == 0x100_0200
    assert vcpu.regs.rsi == BOOT_PARAMS
    assert vcpu.regs.rflags == 2


# 32-bit protected mode (pvh.pandoc; Multiboot Specification, section 3.2)


@pytest.fixture
def vcpu32() -> RecordingVcpu:
    vcpu = RecordingVcpu()
    vcpu.sregs.cr3 = vcpu.sregs.cr4 = vcpu.sregs.efer = 0xFFF
    regs = kvm_regs(rip=0x10_0000, rbx=0x7000, rflags=0x200)
    set_protected_mode_cpu(cast("Vcpu", vcpu), regs)
    return vcpu


def test_protected_mode_has_neither_paging_nor_interrupts(
    vcpu32: RecordingVcpu,
) -> None:
    sregs = vcpu32.sregs
    assert sregs.cr0 == 0x11  # PE, and ET, which is always set
    assert (sregs.cr3, sregs.cr4, sregs.efer) == (0, 0, 0)
    assert vcpu32.regs.rflags == 2
    assert (vcpu32.regs.rip, vcpu32.regs.rbx) == (0x10_0000, 0x7000)


def test_protected_mode_segments_are_flat_and_those_of_the_gdt(
    vcpu32: RecordingVcpu,
) -> None:
    sregs = vcpu32.sregs
    gdt = struct.unpack("<5Q", gdt32().data)
    assert (sregs.gdt.base, sregs.gdt.limit) == (GDT, 39)
    assert gdt[2:] == (0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x8B00_0000_0067)
    assert [sregs.cs.selector, sregs.ds.selector, sregs.tr.selector] == [16, 24, 32]
    assert (sregs.cs.l, sregs.cs.db, sregs.cs.limit) == (0, 1, 0xFFFF_FFFF)
    assert (sregs.tr.base, sregs.tr.limit, sregs.tr.type) == (0, 0x67, 0xB)


def test_what_is_not_linux_has_the_selectors_of_qemu_and_grub() -> None:
    vcpu = RecordingVcpu()
    set_protected_mode_cpu(cast("Vcpu", vcpu), kvm_regs(), LOADER_CS)
    gdt = struct.unpack("<4Q", gdt32(LOADER_CS).data)
    sregs = vcpu.sregs
    assert [sregs.cs.selector, sregs.ds.selector, sregs.ss.selector] == [8, 16, 16]
    assert (sregs.tr.selector, sregs.gdt.limit) == (24, 31)
    assert gdt == (
        0,
        0x00CF_9B00_0000_FFFF,
        0x00CF_9300_0000_FFFF,
        0x0000_8B00_0000_0067,
    )


def test_boot_msrs_are_fast_strings_and_write_back() -> None:
    vcpu = RecordingVcpu()
    cpu_state.set_boot_msrs(cast("Vcpu", vcpu))
    assert vcpu.msrs == {0x1A0: 1, 0x2FF: 0x806}


# The MP table (MultiProcessor Specification 1.4, chapter 4)


def split(table: bytes) -> tuple[bytes, list[bytes]]:
    """The configuration header and its entries."""
    header, rest = table[16:60], table[60:]
    entries = []
    for _ in range(struct.unpack_from("<H", header, 34)[0]):
        size = 20 if rest[0] == 0 else 8
        entries.append(rest[:size])
        rest = rest[size:]
    assert rest == b""
    return header, entries


def entries_of(kind: int, cpus: int = 1) -> list[bytes]:
    return [entry for entry in split(mp_table(MP_TABLE, cpus))[1] if entry[0] == kind]


@pytest.mark.parametrize("cpus", [1, 2, 8, CPUS_MAX])
def test_mp_table_sums_are_zero(cpus: int) -> None:
    table = mp_table(MP_TABLE, cpus)
    assert sum(table[:16]) % 256 == 0
    assert sum(table[16:]) % 256 == 0


def test_mp_pointer_names_itself_and_the_table() -> None:
    signature, address, length, version = struct.unpack_from(
        "<4sIBB", mp_table(MP_TABLE, 1)
    )
    assert (signature, address, length, version) == (b"_MP_", MP_TABLE + 16, 1, 4)


def test_mp_header_has_length_and_local_apic() -> None:
    table = mp_table(MP_TABLE, 2)
    header, _ = split(table)
    assert header[:4] == b"PCMP"
    assert struct.unpack_from("<H", header, 4)[0] == len(table) - 16
    assert struct.unpack_from("<I", header, 36)[0] == 0xFEE0_0000


def test_mp_table_of_all_cpus_fits_below_the_bios() -> None:
    assert len(mp_table(MP_TABLE, CPUS_MAX)) <= BIOS - MP_TABLE


def test_mp_table_lists_each_cpu_enabled_the_first_as_boot_cpu() -> None:
    cpus = [(entry[1], entry[3]) for entry in entries_of(0, cpus=3)]
    assert cpus == [(0, 3), (1, 1), (2, 1)]


def test_mp_table_lists_all_cpus() -> None:
    found = [entry[1] for entry in entries_of(0, cpus=CPUS_MAX)]
    assert found == list(range(CPUS_MAX))


def test_ioapic_id_is_no_cpus() -> None:
    (ioapic,) = entries_of(2, cpus=3)
    assert struct.unpack("<BBBBI", ioapic) == (2, 3, 0x11, 1, 0xFEC0_0000)


def test_isa_irq_n_is_wired_to_pin_n() -> None:
    wires = [struct.unpack("<BBHBBBB", entry) for entry in entries_of(3, cpus=2)]
    assert wires == [(3, 0, 0, 0, irq, 2, irq) for irq in range(16)]


def test_pcis_bus_has_its_own_number_and_isas_the_next() -> None:
    lines = [(0, 11), (31, 10)]
    entries = split(mp_table(MP_TABLE, 3, [11], lines))[1]
    buses = [struct.unpack("<BB6s", entry) for entry in entries if entry[0] == 1]
    assert buses == [(1, 0, b"PCI   "), (1, 1, b"ISA   ")]
    wires = [struct.unpack("<BBHBBBB", entry) for entry in entries if entry[0] == 3]
    assert [wire for wire in wires if wire[3] == 0] == [
        (3, 0, 0, 0, 0 << 2, 3, 11),
        (3, 0, 0, 0, 31 << 2, 3, 10),
    ]
    isa = [wire for wire in wires if wire[3] == 1]
    assert [(irq, pin) for *_, irq, _, pin in isa] == [(n, n) for n in range(16)]
    local = [struct.unpack("<BBHBBBB", entry) for entry in entries if entry[0] == 4]
    assert {wire[3] for wire in local} == {1}


def test_level_triggered_irqs_are_active_low_and_level() -> None:
    wires = split(mp_table(MP_TABLE, 1, [5, 11]))[1]
    flags = [struct.unpack_from("<H", wire, 2)[0] for wire in wires if wire[0] == 3]
    assert [irq for irq, value in enumerate(flags) if value] == [5, 11]
    assert {flags[5], flags[11]} == {0b1111}


def test_local_interrupts_are_extint_and_nmi_of_all_cpus() -> None:
    wires = [struct.unpack("<BBHBBBB", entry) for entry in entries_of(4)]
    assert wires == [(4, 3, 0, 0, 0, 0xFF, 0), (4, 1, 0, 0, 0, 0xFF, 1)]


def test_bus_is_isa() -> None:
    assert entries_of(1) == [b"\x01\x00ISA   "]
