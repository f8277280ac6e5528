"""Small kernel images for tests, with the headers of real ones."""

import struct
from collections.abc import Sequence

MIB = 1 << 20
SETUP_SECTS = 4
CODE_OFFSET = (SETUP_SECTS + 1) * 512


def bzimage(  # noqa: PLR0913 - a header with defaults, by keyword
    code: bytes = b"\x90" * 4096,
    *,
    version: int = 0x020F,
    loadflags: int = 1,
    xloadflags: int = 1,
    cmdline_size: int = 2047,
    initrd_addr_max: int = 0x7FFF_FFFF,
    pref_address: int = 16 * MIB,
    init_size: int = 2 * MIB,
    payload: tuple[int, int] = (0, 0),
) -> bytes:
    """A bzImage whose protected-mode code is `code`, a multiple of 16 bytes.

    `payload` is its offset in the code, and its length.
    """
    setup = bytearray(CODE_OFFSET)
    setup[0x1F1] = SETUP_SECTS
    struct.pack_into("<I", setup, 0x1F4, len(code) // 16)
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x200:0x202] = b"\xeb\x6a"  # the header ends at 0x202 + 0x6a
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    setup[0x211] = loadflags
    struct.pack_into("<I", setup, 0x22C, initrd_addr_max)
    struct.pack_into("<H", setup, 0x236, xloadflags)
    struct.pack_into("<I", setup, 0x238, cmdline_size)
    struct.pack_into("<II", setup, 0x248, *payload)
    struct.pack_into("<Q", setup, 0x258, pref_address)
    struct.pack_into("<I", setup, 0x260, init_size)
    return bytes(setup) + code


def program_header(
    paddr: int, filesz: int, memsz: int, *, offset: int = 0, kind: int = 1
) -> bytes:
    """An Elf64_Phdr; kind 1 is PT_LOAD."""
    return struct.pack("<IIQQQQQQ", kind, 7, offset, paddr, paddr, filesz, memsz, 4096)


def elf(
    headers: Sequence[bytes] = (),
    *,
    machine: int = 62,
    entry: int = 16 * MIB,
    phoff: int = 64,
    phentsize: int = 56,
    phnum: int | None = None,
    ident: bytes = b"\x7fELF\x02\x01\x01",
) -> bytes:
    """An ELF executable; without `headers` it has one segment at 16 MiB."""
    headers = headers or [program_header(16 * MIB, 256, 8192, offset=120)]
    count = len(headers) if phnum is None else phnum
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(ident, 2, machine, 1, entry, phoff, 0, 0, 64, phentsize, count, 0, 0, 0),
    )
    table = head + b"".join(headers)
    return table + b"\xf4" * 512


def program_header32(
    paddr: int, filesz: int, memsz: int, *, offset: int = 0, kind: int = 1
) -> bytes:
    """An Elf32_Phdr; kind 1 is PT_LOAD."""
    return struct.pack("<8I", kind, offset, paddr, paddr, filesz, memsz, 7, 4)


def elf32(
    headers: Sequence[bytes] = (), *, entry: int = 16 * MIB, rest: bytes = b""
) -> bytes:
    """A 32-bit ELF executable; `rest` follows its header and program headers.

    Without `headers` it has one segment, all of `rest`, at 16 MiB.
    """
    headers = headers or [program_header32(16 * MIB, len(rest), 8192, offset=84)]
    head = struct.pack(
        "<16sHHIIIIIHHHHHH",
        *(b"\x7fELF\x01\x01\x01", 2, 3, 1, entry, 52, 0, 0, 52, 32, len(headers)),
        *(0, 0, 0),
    )
    return head + b"".join(headers) + rest


def multiboot_header(flags: int = 0, *addresses: int) -> bytes:
    """A multiboot header; addresses are header, load, load_end, bss_end, entry."""
    checksum = -(0x1BADB002 + flags) & 0xFFFF_FFFF
    words = (0x1BADB002, flags, checksum, *addresses)
    return struct.pack(f"<{len(words)}I", *words)


def flat(
    addresses: Sequence[int] = (MIB + 8, MIB, 0, 0, MIB + 64), flags: int = 3
) -> bytes:
    """A flat multiboot image of 256 bytes, with its header at 8."""
    header = multiboot_header(1 << 16 | flags, *addresses)
    return (bytes(8) + header).ljust(256, b"\xf4")


def xen_note(value: bytes, kind: int = 18) -> bytes:
    """A note as PVH kernels have it, 18: XEN_ELFNOTE_PHYS32_ENTRY."""
    head = struct.pack("<III4s", 4, len(value), kind, b"Xen\0")
    return head + value.ljust(-(-len(value) // 4) * 4, b"\0")


def pvh_elf(note: bytes, *, size: int | None = None) -> bytes:
    """A 64-bit ELF file that isn't Linux, with a note segment at the file's 176."""
    note_size = len(note) if size is None else size
    headers = [
        program_header(16 * MIB, 16, 8192, offset=176),
        program_header(0, note_size, 0, offset=176, kind=4),
    ]
    image = elf(headers)
    return image[:176] + note + image[176:]
