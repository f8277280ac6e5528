"""boot_params, the "zero page" that tells the kernel what it was booted with.

Source: the kernel's Documentation/arch/x86/zero-page.rst and boot.rst, and
<asm/bootparam.h> for offsets.
"""

import os
import struct
from collections.abc import Sequence
from typing import Final

from ..memory import Range
from .bzimage import BOOT_FLAG, HDRS, HEADER_MAGIC, LOADED_HIGH, LOADFLAGS, SETUP_HEADER
from .image import KernelImage
from .layout import CMDLINE, EBDA, HIGH_MEMORY, PAGE_SIZE, SETUP_DATA

BOOT_PARAMS_SIZE: Final = 4096
ACPI_RSDP_ADDR: Final = 0x70
E820_ENTRIES: Final = 0x1E8
TYPE_OF_LOADER: Final = 0x210
RAMDISK_IMAGE: Final = 0x218
RAMDISK_SIZE: Final = 0x21C
CMD_LINE_PTR: Final = 0x228
SETUP_DATA_PTR: Final = 0x250
E820_TABLE: Final = 0x2D0

E820_TYPE_RAM: Final = 1
E820_TYPE_RESERVED: Final = 2
LOADER_UNDEFINED: Final = 0xFF
SETUP_RNG_SEED: Final = 9
RNG_SEED_SIZE: Final = 32  # what the kernel's CRNG takes in one go

_E820_ENTRY: Final = struct.Struct("<QQI")


def e820_table(ram: Sequence[Range]) -> list[tuple[int, int, int]]:
    """The memory map as (address, size, type), for RAM that begins at 0.

    Linux takes a map of a single entry for broken firmware and ignores it; a
    PC's always has the hole between base memory and 1 MiB. Page 0, with the interrupt
    vectors and the BIOS data area, is nobody's to use: Linux splits a range that
    has it, and then has one more to search each time it maps memory.
    """
    low, *high = ram
    return [
        (PAGE_SIZE, EBDA - PAGE_SIZE, E820_TYPE_RAM),
        (EBDA, HIGH_MEMORY - EBDA, E820_TYPE_RESERVED),
        (HIGH_MEMORY, low.size - HIGH_MEMORY, E820_TYPE_RAM),
        *((address, size, E820_TYPE_RAM) for address, size in high),
    ]


def boot_params(
    kernel: KernelImage, ram: Sequence[Range], initrd: Range | None, rsdp: int = 0
) -> bytearray:
    """The page for `kernel`: its setup header, and what a boot loader fills in.

    `rsdp` is the address of ACPI's; 0 where there is none.
    """
    page = bytearray(BOOT_PARAMS_SIZE)
    header = kernel.setup_header
    page[SETUP_HEADER : SETUP_HEADER + len(header)] = header
    if not header:  # an ELF image has none; the kernel checks these two
        struct.pack_into("<H", page, BOOT_FLAG, 0xAA55)
        page[HEADER_MAGIC : HEADER_MAGIC + 4] = HDRS
    struct.pack_into("<Q", page, ACPI_RSDP_ADDR, rsdp)
    page[TYPE_OF_LOADER] = LOADER_UNDEFINED
    page[LOADFLAGS] = LOADED_HIGH  # no real-mode heap, segments may be reloaded
    struct.pack_into("<I", page, CMD_LINE_PTR, CMDLINE)
    struct.pack_into("<Q", page, SETUP_DATA_PTR, SETUP_DATA)
    if initrd is not None:
        struct.pack_into("<I", page, RAMDISK_IMAGE, initrd.guest_addr)
        struct.pack_into("<I", page, RAMDISK_SIZE, initrd.size)
    table = e820_table(ram)
    page[E820_ENTRIES] = len(table)
    for index, entry in enumerate(table):
        _E820_ENTRY.pack_into(page, E820_TABLE + index * _E820_ENTRY.size, *entry)
    return page


def rng_seed() -> bytes:
    """A setup_data node with fresh randomness; the kernel wipes it after use."""
    node = struct.pack("<QII", 0, SETUP_RNG_SEED, RNG_SEED_SIZE)
    return node + os.urandom(RNG_SEED_SIZE)
