"""ELF: an uncompressed vmlinux, or any bare-metal program linked like one.

Source: System V ABI, "Object Files"; entered as the kernel's boot.rst, section
"64-bit Boot Protocol", says.
"""

import struct
from typing import Final

from .image import ImageFile, KernelImage, Segment
from .layout import HIGH_MEMORY

ELF_MAGIC: Final = b"\x7fELF"
EI_CLASS: Final = 4
EI_DATA: Final = 5
ELFCLASS64: Final = 2
ELFDATA2LSB: Final = 1
EM_386: Final = 3
EM_X86_64: Final = 62
PT_LOAD: Final = 1

# e_type e_machine e_version e_entry e_phoff e_shoff e_flags e_ehsize e_phentsize
# e_phnum
_EHDR: Final = struct.Struct("<16xHHIQQQIHHH")
# p_type p_flags p_offset p_vaddr p_paddr p_filesz p_memsz p_align
_PHDR: Final = struct.Struct("<IIQQQQQQ")
_PHNUM_MAX: Final = 256

_MACHINES: Final = {EM_386: "32-bit x86", 40: "ARM", 183: "AArch64", 243: "RISC-V"}

COMMAND_LINE_SIZE: Final = 2048  # arch/x86/include/asm/setup.h, with the NUL
INITRD_ADDR_MAX: Final = 0x7FFF_FFFF  # what every x86-64 bzImage says


def is_elf(head: bytes) -> bool:
    """Whether a file that starts with `head` is an ELF file."""
    return head.startswith(ELF_MAGIC)


def parse_elf(file: ImageFile) -> KernelImage:
    """Read the program headers. Raises ImageError, naming what is wrong."""
    head = file.read(0, 64)
    if len(head) < 64:
        raise file.error(f"truncated: the ELF header ends after {len(head)} bytes")
    _, machine, _, entry, phoff, _, _, _, phentsize, phnum = _EHDR.unpack_from(head)
    if head[EI_DATA] != ELFDATA2LSB:
        raise file.error("a big-endian kernel, not for x86-64")
    if machine != EM_X86_64:
        name = _MACHINES.get(machine, f"ELF machine {machine}")
        raise file.error(f"a kernel for {name}, not for x86-64")
    if head[EI_CLASS] != ELFCLASS64:
        raise file.error("a 32-bit ELF file for x86-64: use a 64-bit one")
    segments, end = _load_segments(file, phoff, phentsize, phnum)
    start = min(segment.guest_addr for segment in segments)
    if not start <= entry < end:
        raise file.error(
            f"its entry point {entry:#x} lies outside of its segments "
            f"[{start:#x}, {end:#x}): entry and p_paddr must be physical addresses"
        )
    return KernelImage(
        file=file,
        format="ELF, 64-bit entry",
        segments=segments,
        entry=entry,
        start=start,
        end=end,
        cmdline_size=COMMAND_LINE_SIZE - 1,
        initrd_addr_max=INITRD_ADDR_MAX,
    )


def _load_segments(
    file: ImageFile, phoff: int, phentsize: int, phnum: int
) -> tuple[list[Segment], int]:
    """The PT_LOAD segments and the first address after their memory images."""
    if phentsize != _PHDR.size or not 0 < phnum <= _PHNUM_MAX:
        raise file.error(f"no usable program headers ({phnum} of {phentsize} bytes)")
    table = file.read(phoff, phnum * _PHDR.size)
    if len(table) < phnum * _PHDR.size:
        raise file.error("truncated: its program headers are missing")
    segments: list[Segment] = []
    end = 0
    for kind, _, offset, _, paddr, filesz, memsz, _ in _PHDR.iter_unpack(table):
        if kind != PT_LOAD or memsz == 0:
            continue
        if filesz > memsz or paddr + memsz > 1 << 64:
            raise file.error(f"its segment at {paddr:#x} has an impossible size")
        if offset + filesz > file.size:
            raise file.error(
                f"truncated: its segment at {paddr:#x} ends "
                f"{offset + filesz - file.size} bytes after the file"
            )
        if paddr < HIGH_MEMORY:
            raise file.error(f"its segment at {paddr:#x} lies below 1 MiB")
        segments.append(Segment(paddr, offset, filesz))
        end = max(end, paddr + memsz)
    if not segments:
        raise file.error("has no PT_LOAD segment: is it an object file?")
    return segments, end
