"""Multiboot 1 images: an ELF file with a header, or a flat one that says it all.

Source: Multiboot Specification 0.6.96, section 3.1, "OS image format".
"""

import struct
from typing import Final

from ..devices.record import Record
from .elf import is_elf, read_elf
from .elf_kernel import elf_image
from .image import MULTIBOOT, ImageFile, KernelImage, Segment
from .layout import CMDLINE_MAX

HEADER_MAGIC: Final = 0x1BADB002
PAGE_ALIGN: Final = 1 << 0  # modules begin at pages: ours always do
MEMORY_INFO: Final = 1 << 1  # mem_* and the map are wanted: they are always there
VIDEO_MODE: Final = 1 << 2
AOUT_KLUDGE: Final = 1 << 16
REQUIREMENTS: Final = 0xFFFF  # flags that a loader either knows or refuses
KNOWN: Final = PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE

_HEADER: Final = struct.Struct("<III")  # magic, flags, checksum
# header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr
_ADDRESSES: Final = struct.Struct("<IIIII")


class Header(Record):
    """A multiboot header; `addresses` are there in a file that was long enough."""

    offset: int
    flags: int
    addresses: tuple[int, int, int, int, int] | None


def find_header(head: bytes) -> Header | None:
    """The header in a file's first 8192 bytes, at a multiple of four of them."""
    magic = HEADER_MAGIC.to_bytes(4, "little")
    at = head.find(magic)
    while at >= 0:
        if at % 4 == 0 and at + _HEADER.size <= len(head):
            _, flags, checksum = _HEADER.unpack_from(head, at)
            if (HEADER_MAGIC + flags + checksum) & 0xFFFF_FFFF == 0:
                return Header(at, flags, _addresses(head, at + _HEADER.size))
        at = head.find(magic, at + 1)
    return None


def _addresses(head: bytes, at: int) -> tuple[int, int, int, int, int] | None:
    if at + _ADDRESSES.size > len(head):
        return None
    return _ADDRESSES.unpack_from(head, at)


def parse_multiboot(file: ImageFile, header: Header) -> KernelImage:
    """As the header says. Raises ImageError, with the flags or addresses at fault.

    A video mode is more than there is, and a loader may refuse; but kernels see in
    the information's flags that they have none, and QEMU boots them, too.
    """
    unknown = header.flags & REQUIREMENTS & ~KNOWN
    if unknown:
        raise file.error(
            f"its multiboot flags {header.flags:#x} require what we don't know: "
            f"{unknown:#x} (of bits 0 to 15, 0 to 2 are known)"
        )
    image = _image(file, header)
    if header.flags & VIDEO_MODE:
        warning = (
            f"kernel {file.path!r} asks for a video mode (multiboot flags "
            f"{header.flags:#x}, bit 2), and this machine has no display"
        )
        image = image.replace(warnings=[warning])
    return image


def _image(file: ImageFile, header: Header) -> KernelImage:
    if header.flags & AOUT_KLUDGE:
        return _flat_image(file, header)
    if not is_elf(file.read(0, 4)):
        raise file.error(
            f"its multiboot flags {header.flags:#x} have no addresses (bit 16), "
            "which only an ELF file can do without"
        )
    elf = read_elf(file)
    # As GRUB does, for kernels whose entry is an address that they are linked for.
    entry = elf.physical(elf.entry)
    image = elf_image(elf, MULTIBOOT, elf.entry if entry is None else entry)
    return image.replace(cmdline_size=CMDLINE_MAX)


def _flat_image(file: ImageFile, header: Header) -> KernelImage:
    """One segment, whatever the file's format: the a.out kludge (section 3.1.3)."""
    if header.addresses is None:
        raise file.error("truncated: its multiboot header has no room for addresses")
    header_addr, start, load_end, bss_end, entry = header.addresses
    skipped = header.offset - (header_addr - start)
    if start > header_addr or skipped < 0:
        raise file.error(
            f"its multiboot load_addr {start:#x} and header_addr {header_addr:#x} "
            f"don't go with a header at {header.offset:#x} of the file"
        )
    size = load_end - start if load_end else file.size - skipped
    end = max(bss_end, start + size)
    if size <= 0 or skipped + size > file.size:
        raise file.error(
            f"its multiboot image [{start:#x}, {load_end:#x}) would be {size} bytes "
            f"from {skipped:#x} on of a file of {file.size}"
        )
    if bss_end and bss_end < start + size:
        raise file.error(
            f"its multiboot bss_end_addr {bss_end:#x} lies before the end of what is "
            f"loaded, {start + size:#x}"
        )
    if not start <= entry < end:
        raise file.error(
            f"its multiboot entry_addr {entry:#x} lies outside of its image "
            f"[{start:#x}, {end:#x})"
        )
    return KernelImage(
        file=file,
        format="flat, multiboot entry",
        protocol=MULTIBOOT,
        segments=[Segment(start, skipped, size)],
        entry=entry,
        start=start,
        end=end,
        cmdline_size=CMDLINE_MAX,
        initrd_addr_max=0xFFFF_FFFF,
    )
