"""Tell which kind of kernel image a file is, or what it is instead."""

import os
import struct
from typing import Final

from .bzimage import is_bzimage, parse_bzimage
from .elf import is_elf
from .elf_kernel import parse_elf
from .image import MULTIBOOT, PVH, ImageFile, KernelImage

HEAD_SIZE: Final = 8192  # within which a multiboot header has to lie
MULTIBOOT_MAGIC: Final = b"\x02\xb0\xad\x1b"  # 0x1BADB002
MULTIBOOT2_HEAD_SIZE: Final = 32768  # the same for multiboot 2
MULTIBOOT2_MAGIC: Final = b"\xd6\x50\x52\xe8"  # 0xE85250D6
_MULTIBOOT2: Final = struct.Struct("<4I")  # magic, architecture, length, checksum

_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x02\x21\x4c\x18": "lz4",
}


def open_kernel(
    path: str | os.PathLike[str], protocol: str = "auto", ram_end: int | None = None
) -> KernelImage:
    """Open and parse a kernel image; its file stays open until closed.

    `protocol` is how it is to be entered, or "auto": as the image says. What has to
    be unpacked must fit below `ram_end`, which is looked at first. Raises ImageError,
    saying what the file is if it is no kernel of ours, or doesn't offer the protocol.
    """
    return parse_kernel(ImageFile("kernel", path), protocol, ram_end)


def parse_kernel(
    file: ImageFile, protocol: str = "auto", ram_end: int | None = None
) -> KernelImage:
    """As `open_kernel`, of a file that is open; upon errors it is closed."""
    try:
        return _parse(file, protocol, ram_end)
    except BaseException:
        file.close()
        raise


def _parse(file: ImageFile, protocol: str, ram_end: int | None) -> KernelImage:
    head = file.read(0, HEAD_SIZE)
    if is_bzimage(head):
        image = parse_bzimage(file, protocol)
        if ram_end is not None:
            image.check_fits(ram_end)
        if protocol != PVH:
            return image
        from .payload import unpack_bzimage  # most runs have no use for it

        return unpack_bzimage(image, protocol)
    if protocol == MULTIBOOT or (protocol == "auto" and MULTIBOOT_MAGIC in head):
        from .multiboot_image import find_header, parse_multiboot

        header = find_header(head)
        if header is not None:
            return parse_multiboot(file, header)
        if protocol == MULTIBOOT:
            raise file.error(f"has no multiboot header in its first {HEAD_SIZE} bytes")
    if is_elf(head):
        image = parse_elf(file, protocol)
        if protocol == "auto" and image.protocol != PVH and not image.linux:
            _refuse_multiboot_alone(file)
        return image
    if protocol != "auto":
        raise file.error("neither a bzImage nor an ELF file")
    _refuse_multiboot_alone(file)
    raise file.error(_what_else(head))


def _refuse_multiboot_alone(file: ImageFile) -> None:
    """Raises ImageError for a kernel that only multiboot 2 can enter.

    And for one whose multiboot header lies too far behind: ld gives each kind of
    segment a page, and a section that no linker script puts first comes third.
    Source: Multiboot2 Specification 2.0, section 3.1.1, "The layout of header magic
    fields".
    """
    head = file.read(0, MULTIBOOT2_HEAD_SIZE)
    if MULTIBOOT_MAGIC in head:
        from .multiboot_image import find_header

        header = find_header(head)
        if header is not None:
            raise file.error(
                f"has its multiboot header at {header.offset:#x}, where no loader "
                f"looks: it has to lie in the first {HEAD_SIZE} bytes; link its "
                "section first, or pass ld -z noseparate-code"
            )
    if MULTIBOOT2_MAGIC not in head:
        return
    for at in range(0, len(head) - _MULTIBOOT2.size + 1, 8):
        words = _MULTIBOOT2.unpack_from(head, at)
        if head.startswith(MULTIBOOT2_MAGIC, at) and sum(words) & 0xFFFF_FFFF == 0:
            raise file.error(
                "has a multiboot 2 header alone, and that protocol isn't offered: give "
                "it a multiboot 1 header or a PVH note, or say how it is entered "
                "(--boot-protocol linux32 or linux64)"
            )


def _what_else(head: bytes) -> str:
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            return f"is {name}-compressed: decompress it, or pass the bzImage"
    if head[0x38:0x3C] == b"ARM\x64":
        return "a kernel for AArch64, not for x86-64"
    if head.startswith(b"070701"):
        return "is a cpio archive: pass it with --initrd"
    return "neither a bzImage, an ELF file nor a multiboot image"
