"""A kernel in an ELF file: by which protocol it is entered, and where.

Sources: boot.rst; Xen's docs/misc/pvh.pandoc; Multiboot Specification 0.6.96, section
3.1.4.
"""

from typing import Final

from ..memory import Range
from .elf import ElfFile, read_elf
from .image import LINUX32, LINUX64, PVH, ImageFile, KernelImage, Segment

COMMAND_LINE_SIZE: Final = 2048  # arch/x86/include/asm/setup.h, with the NUL
# What every x86-64 bzImage says, and what every i386 one does.
INITRD_ADDR_MAX: Final = {64: 0x7FFF_FFFF, 32: 0x37FF_FFFF}
_ENTRIES: Final = {
    LINUX64: "64-bit",
    LINUX32: "32-bit",
    PVH: "PVH",
    "multiboot": "multiboot",
}


def parse_elf(file: ImageFile, protocol: str = "auto") -> KernelImage:
    """Read the program headers. Raises ImageError, naming what is wrong.

    By itself, a kernel linked as Linux is entered by its own protocol, and any
    other by PVH if it has the note.
    """
    elf = read_elf(file)
    if protocol == PVH or (protocol == "auto" and elf.notes and not elf.is_linux):
        from .elf_notes import pvh_entry  # a vmlinux needs none of it

        entry = pvh_entry(elf)
        if entry is not None:
            return elf_image(elf, PVH, entry)
        if protocol == PVH:
            raise file.error("has no PVH entry (no note XEN_ELFNOTE_PHYS32_ENTRY)")
    if protocol == LINUX64 and elf.bits == 32:
        raise file.error("a 32-bit ELF file has no 64-bit entry: try linux32")
    if protocol == LINUX32 and elf.bits == 64:
        raise file.error("a 64-bit ELF file has no 32-bit entry: try linux64, or pvh")
    return elf_image(elf, LINUX64 if elf.bits == 64 else LINUX32, elf.entry)


def elf_image(elf: ElfFile, protocol: str, entry: int) -> KernelImage:
    """What to enter at a physical address. Raises ImageError if it isn't ours."""
    start, end = elf.span
    if not elf.holds(entry):
        raise elf.file.error(
            f"its entry point {entry:#x} lies outside of its segments "
            f"[{start:#x}, {end:#x}): entry and p_paddr must be physical addresses"
        )
    return KernelImage(
        file=elf.file,
        format=f"ELF, {_ENTRIES[protocol]} entry",
        protocol=protocol,
        segments=[
            Segment(item.paddr, item.offset, item.file_size) for item in elf.segments
        ],
        entry=entry,
        start=start,
        end=end,
        cmdline_size=COMMAND_LINE_SIZE - 1,
        initrd_addr_max=INITRD_ADDR_MAX[elf.bits],
        linux=elf.is_linux,
        ring3=elf.is_linux and _is_ring3(elf),
        ranges=[Range(item.paddr, item.size) for item in elf.segments],
    )


def _is_ring3(elf: ElfFile) -> bool:
    from .elf_notes import is_ring3  # a bare-metal program needs none of it

    return is_ring3(elf)
