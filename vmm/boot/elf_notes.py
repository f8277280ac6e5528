"""The notes of an ELF file, among which is where PVH enters it.

Sources: System V ABI, "Note Section"; Xen's xen/include/public/elfnote.h.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from .elf import ElfFile

XEN_ELFNOTE_PHYS32_ENTRY: Final = 18
XEN: Final = b"Xen"
RING3: Final = b"ring3"  # ours: guest/linux/patches/0017
RING3_ELFNOTE_VERSION: Final = 1

_SIZE_MAX: Final = 1 << 18  # of all; a distribution kernel's have a few hundred bytes
_HEADER: Final = struct.Struct("<III")  # n_namesz, n_descsz, n_type


class Note(NamedTuple):
    """One note; `name` is without its NUL."""

    name: bytes
    kind: int
    value: bytes


def read_notes(elf: ElfFile) -> Iterator[Note]:
    """All notes. Raises ImageError where one is cut, or they are too many.

    Segments may lie over each other: so it is their sum that counts.
    """
    total = sum(size for _, size, _ in elf.notes)
    if total > _SIZE_MAX:
        raise elf.file.error(f"its notes have {total} bytes, more than {_SIZE_MAX}")
    for offset, size, align in elf.notes:
        if offset + size > elf.file.size:
            raise elf.file.error(
                f"its notes, {size} bytes at {offset} of {elf.file.size}, can't be "
                "there"
            )
        yield from _notes(elf, elf.file.read(offset, size), 8 if align == 8 else 4)


def _notes(elf: ElfFile, data: bytes, align: int) -> Iterator[Note]:
    at = 0
    while at + _HEADER.size <= len(data):
        name_size, value_size, kind = _HEADER.unpack_from(data, at)
        name = at + _HEADER.size
        value = (name + name_size + align - 1) & -align
        at = (value + value_size + align - 1) & -align
        if value + value_size > len(data):
            raise elf.file.error(
                f"truncated: a note of {name_size} and {value_size} bytes ends after "
                f"the {len(data)} of its segment"
            )
        found = data[name : name + name_size].rstrip(b"\0")
        yield Note(found, kind, data[value : value + value_size])


def pvh_entry(elf: ElfFile) -> int | None:
    """The physical address at which PVH enters it; None if it has no such note.

    Linux writes 8 bytes on x86-64, Xen's ABI has 4. Raises ImageError.
    """
    for note in read_notes(elf):
        if note.name == XEN and note.kind == XEN_ELFNOTE_PHYS32_ENTRY:
            if len(note.value) not in (4, 8):
                raise elf.file.error(
                    f"its PVH entry has {len(note.value)} bytes, not 4 or 8"
                )
            return int.from_bytes(note.value, "little")
    return None


def is_ring3(elf: ElfFile) -> bool:
    """Whether it is a Linux that runs in ring 3. Raises ImageError."""
    return any(
        note.name == RING3 and note.kind == RING3_ELFNOTE_VERSION
        for note in read_notes(elf)
    )
