"""Where things are in guest physical memory. All addresses are in bytes.

Below 1 MiB it looks like a PC after its firmware: what we place there, the
kernel reads before it takes the memory for itself. Real-mode parts of other kernels
lie there, too: 0x7C00 and 0x8000, where many are linked to, are left to them.
"""

from typing import Final

from ..memory import Range

PAGE_SIZE: Final = 0x1000
MIB: Final = 1 << 20
GIB: Final = 1 << 30

VECTORS: Final = 0  # of real mode, 1 KiB
BDA: Final = 0x400  # the BIOS data area
GDT: Final = 0x500  # just above it
BOOT_PARAMS: Final = 0x6000  # the "zero page", or what other protocols have for it
BOOT_INFO_MAX: Final = 0x1000
PML4: Final = 0x9000  # then one PDPT and four page directories: 6 pages
BOOT_STACK: Final = 0xF000  # a page
BOOT_STACK_TOP: Final = 0xFFF0
CMDLINE: Final = 0x20000
CMDLINE_MAX: Final = 0x10000  # room for the string and its NUL
STRINGS: Final = 0x30000  # of modules
STRINGS_MAX: Final = 0x10000
EBDA: Final = 0x9FC00  # the last KiB of base memory
EBDA_SIZE: Final = 0x400
SETUP_DATA: Final = 0xD0000  # a page; within RAM it would split the kernel's e820 map
# In a page of its own, and not where one looks for the ROMs of cards: each 2 KiB.
VM_GENERATION_ID: Final = 0xD1010
ACPI: Final = 0xE0000  # the tables, RSDP first: where BIOSes have it, too
ACPI_SIZE: Final = 0x10000
MP_TABLE: Final = 0xF0000  # in the BIOS's ROM, as its code
BIOS: Final = 0xFE05B  # where the reset vector jumps to on every PC
RESET_VECTOR: Final = 0xFFFF0
HIGH_MEMORY: Final = 0x100000  # RAM goes on here after the legacy video and ROM area

VIDEO: Final = Range(0xA_0000, 0x2_0000)  # RAM, too, until a device claims it

MMIO_HOLE: Final = 0xE000_0000  # RAM ends at 3.5 GiB ...
IOAPIC: Final = 0xFEC0_0000
LAPIC: Final = 0xFEE0_0000
IDENTITY_MAP: Final = 0xFEFF_C000  # a page for KVM on Intel, below what flash may have
TSS: Final = 0xFEFF_D000  # three pages, likewise
MMIO_HOLE_END: Final = 0x1_0000_0000  # ... and goes on at 4 GiB
ADDRESS_END: Final = 1 << 52  # x86 has no further physical addresses

# A PCI bus has these, (first, last), whether there is one or not: it may come later.
PCI_ECAM: Final = Range(MMIO_HOLE, MIB)  # the configuration space of bus 0
PCI_MEM32: Final = (0xE010_0000, 0xFBFF_FFFF)
PCI_IO: Final = (0xC000, 0xFFFF)
_PCI_MEM64: Final = 0x60_0000_0000  # up to what the smallest CPUs have, 39 bits
_PCI_MEM64_SIZE: Final = 0x20_0000_0000
# So devices that take any address get theirs elsewhere.
ANY_MMIO: Final = ((0xFC00_0000, IOAPIC - 1), (0x40_0000_0000, _PCI_MEM64 - 1))

# What is KVM's own. MSIs are writes to the LAPIC's MiB.
KVMS_OWN: Final = (
    Range(IOAPIC, PAGE_SIZE),
    Range(LAPIC, MIB),
    Range(IDENTITY_MAP, 4 * PAGE_SIZE),
)

MEMORY_MIN: Final = 2 * MIB  # base memory and something above 1 MiB


def ram_ranges(size: int) -> list[Range]:
    """Where `size` bytes of RAM go: up to the hole, and the rest from 4 GiB on."""
    ranges = [Range(0, min(size, MMIO_HOLE))]
    if size > MMIO_HOLE:
        ranges.append(Range(MMIO_HOLE_END, size - MMIO_HOLE))
    return ranges


def pci_mem64(ram: list[Range]) -> tuple[int, int]:
    """(first, last) of the addresses above 4 GiB that a PCI bus has, behind all RAM."""
    ram_end = ram[-1].guest_addr + ram[-1].size
    start = max(_PCI_MEM64, -(-ram_end // _PCI_MEM64_SIZE) * _PCI_MEM64_SIZE)
    return start, start + _PCI_MEM64_SIZE - 1


def device_addresses(ram: list[Range]) -> tuple[tuple[int, int], ...]:
    """(first, last) of every range where neither RAM nor KVM's own is."""
    low, *high = ram
    above_video = VIDEO.guest_addr + VIDEO.size
    below = [
        Range(0, VIDEO.guest_addr),
        Range(above_video, low.size - above_video),
    ]
    found, start = [], 0
    for taken in sorted([*below, *KVMS_OWN, *high, Range(ADDRESS_END, 0)]):
        if start < taken.guest_addr:
            found.append((start, taken.guest_addr - 1))
        start = taken.guest_addr + taken.size
    return tuple(found)
