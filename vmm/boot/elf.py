"""ELF: an uncompressed vmlinux, or any bare-metal program linked like one.

Source: System V ABI, "Object Files".
"""

import struct
from itertools import pairwise
from typing import Final

from ..devices.record import Record
from .image import ImageFile

ELF_MAGIC: Final = b"\x7fELF"
EI_CLASS: Final = 4
EI_DATA: Final = 5
ELFCLASS32: Final = 1
ELFCLASS64: Final = 2
ELFDATA2LSB: Final = 1
EM_386: Final = 3
EM_X86_64: Final = 62
PT_LOAD: Final = 1
PT_NOTE: Final = 4

# e_machine, e_entry, e_phoff, e_phentsize, e_phnum
_EHDR64: Final = struct.Struct("<18xH4xQQ14xHH6x")
_EHDR32: Final = struct.Struct("<18xH4xII10xHH6x")
# p_type p_flags p_offset p_vaddr p_paddr p_filesz p_memsz p_align
_PHDR64: Final = struct.Struct("<IIQQQQQQ")
# p_type p_offset p_vaddr p_paddr p_filesz p_memsz p_flags p_align
_PHDR32: Final = struct.Struct("<8I")
_PHNUM_MAX: Final = 256

_MACHINES: Final = {EM_386: "32-bit x86", 40: "ARM", 183: "AArch64", 243: "RISC-V"}


class ElfSegment(Record):
    """A PT_LOAD: `size` bytes at physical `paddr`, `file_size` of them in the file."""

    vaddr: int
    paddr: int
    offset: int
    file_size: int
    size: int


class ElfFile(Record):
    """An x86 ELF executable. `notes` are offset, size and alignment of each PT_NOTE."""

    file: ImageFile
    bits: int
    entry: int
    segments: list[ElfSegment]
    notes: list[tuple[int, int, int]]

    @property
    def span(self) -> tuple[int, int]:
        """The first physical address, and the first one after all segments."""
        return (
            min(segment.paddr for segment in self.segments),
            max(segment.paddr + segment.size for segment in self.segments),
        )

    def holds(self, address: int) -> bool:
        """Whether a segment has this physical address."""
        return any(0 <= address - item.paddr < item.size for item in self.segments)

    def physical(self, address: int) -> int | None:
        """Where an address that the image was linked for lies in memory."""
        for item in self.segments:
            if 0 <= address - item.vaddr < item.size:
                return address - item.vaddr + item.paddr
        return None

    @property
    def is_linux(self) -> bool:
        """Whether it is linked as a vmlinux: to run elsewhere than it is entered."""
        return self.holds(self.entry) and self.physical(self.entry) != self.entry


def is_elf(head: bytes) -> bool:
    """Whether a file that starts with `head` is an ELF file."""
    return head.startswith(ELF_MAGIC)


def read_elf(file: ImageFile) -> ElfFile:
    """Segments and notes of an ELF file for x86. Raises ImageError."""
    head = file.read(0, 64)
    is_64 = head[EI_CLASS : EI_CLASS + 1] != bytes([ELFCLASS32])
    ehdr, phdr = (_EHDR64, _PHDR64) if is_64 else (_EHDR32, _PHDR32)
    if len(head) < ehdr.size:
        raise file.error(f"truncated: the ELF header ends after {len(head)} bytes")
    machine, entry, phoff, phentsize, phnum = ehdr.unpack_from(head)
    _check_machine(file, head, machine)
    if phentsize != phdr.size or not 0 < phnum <= _PHNUM_MAX:
        raise file.error(f"no usable program headers ({phnum} of {phentsize} bytes)")
    table = file.read(phoff, phnum * phdr.size)
    if len(table) < phnum * phdr.size:
        raise file.error("truncated: its program headers are missing")
    segments: list[ElfSegment] = []
    notes: list[tuple[int, int, int]] = []
    for kind, *fields in phdr.iter_unpack(table):
        del fields[0 if is_64 else 5]  # p_flags
        offset, vaddr, paddr, filesz, memsz, align = fields
        if kind == PT_NOTE:
            notes.append((offset, filesz, align))
        if kind == PT_LOAD and memsz > 0:
            segments.append(ElfSegment(vaddr, paddr, offset, filesz, memsz))
    _check_segments(file, segments)
    return ElfFile(file, 64 if is_64 else 32, entry, segments, notes)


def _check_machine(file: ImageFile, head: bytes, machine: int) -> None:
    if head[EI_DATA] != ELFDATA2LSB:
        raise file.error("a big-endian kernel, not for x86-64")
    is_32 = head[EI_CLASS] == ELFCLASS32
    if machine != (EM_386 if is_32 else EM_X86_64):
        if machine == EM_X86_64:
            raise file.error("a 32-bit ELF file for x86-64: use a 64-bit one")
        name = _MACHINES.get(machine, f"ELF machine {machine}")
        raise file.error(f"a kernel for {name}, not for x86-64")


def _check_segments(file: ImageFile, segments: list[ElfSegment]) -> None:
    """Raises ImageError where one can't be loaded, or covers another."""
    if not segments:
        raise file.error("has no PT_LOAD segment: is it an object file?")
    for item in segments:
        paddr, size = item.paddr, item.size
        if item.file_size > size or paddr + size > 1 << 64:
            raise file.error(f"its segment at {paddr:#x} has an impossible size")
        if item.offset + item.file_size > file.size:
            raise file.error(
                f"truncated: its segment at {paddr:#x} ends "
                f"{item.offset + item.file_size - file.size} bytes after the file"
            )
    ordered = sorted(segments, key=lambda item: item.paddr)
    for low, high in pairwise(ordered):
        if low.paddr + low.size > high.paddr:
            raise file.error(
                f"its segments [{low.paddr:#x}, {low.paddr + low.size:#x}) and "
                f"[{high.paddr:#x}, {high.paddr + high.size:#x}) overlap"
            )
