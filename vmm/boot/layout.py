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

GDT: Final = 0x500  # just above the BIOS data area
BOOT_PARAMS: Final = 0x6000  # the "zero page", or what other protocols have for it
BOOT_INFO_MAX: Final = 0x1000
PML4: Final = 0x9000  # then one PDPT and four page directories: 6 pages
BOOT_STACK: Final = 0xF000  # a page
BOOT_STACK_TOP: Final = 0xFFF0
CMDLINE: Final = 0x20000
CMDLINE_MAX: Final = 0x10000  # room for the string and its NUL
STRINGS: Final = 0x30000  # of modules
STRINGS_MAX: Final = 0x10000
EBDA: Final = 0x9FC00  # the last KiB of base memory, where MP tables are sought
EBDA_SIZE: Final = 0x400
SETUP_DATA: Final = 0xD0000  # a page; within RAM it would split the kernel's e820 map
ACPI: Final = 0xE0000  # the tables, RSDP first: where BIOSes have it, too
ACPI_SIZE: Final = 0x20000
HIGH_MEMORY: Final = 0x100000  # RAM goes on here after the legacy video and ROM area

MMIO_HOLE: Final = 0xE000_0000  # RAM ends at 3.5 GiB ...
IOAPIC: Final = 0xFEC0_0000
LAPIC: Final = 0xFEE0_0000
IDENTITY_MAP: Final = 0xFFFB_C000  # one page for KVM on Intel
TSS: Final = 0xFFFB_D000  # three pages, likewise
MMIO_HOLE_END: Final = 0x1_0000_0000  # ... and goes on at 4 GiB

MEMORY_MIN: Final = 2 * MIB  # base memory and something above 1 MiB


def ram_ranges(size: int) -> list[Range]:
    """Where `size` bytes of RAM go: up to the hole, and the rest from 4 GiB on."""
    ranges = [Range(0, min(size, MMIO_HOLE))]
    if size > MMIO_HOLE:
        ranges.append(Range(MMIO_HOLE_END, size - MMIO_HOLE))
    return ranges
