"""Tell which kind of kernel image a file is, or what it is instead."""

import os
from typing import Final

from .bzimage import HEADER_END_MAX, is_bzimage, parse_bzimage
from .elf import is_elf, parse_elf
from .image import ImageFile, KernelImage

_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x02\x21\x4c\x18": "lz4",
}


def open_kernel(path: str | os.PathLike[str]) -> KernelImage:
    """Open and parse a kernel image; its file stays open until closed.

    Raises ImageError, saying what the file is if it is no kernel of ours.
    """
    file = ImageFile("kernel", path)
    try:
        head = file.read(0, HEADER_END_MAX)
        if is_elf(head):
            return parse_elf(file)
        if is_bzimage(head):
            return parse_bzimage(file)
        raise file.error(_what_else(head))
    except BaseException:
        file.close()
        raise


def _what_else(head: bytes) -> str:
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            return f"is {name}-compressed: decompress it, or pass the bzImage"
    if head[0x38:0x3C] == b"ARM\x64":
        return "a kernel for AArch64, not for x86-64"
    if head.startswith(b"070701"):
        return "is a cpio archive: pass it with --initrd"
    return "neither a bzImage nor an ELF vmlinux"
