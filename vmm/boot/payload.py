"""What a bzImage unpacks into, unpacked by the host.

Sources: boot.rst, "Details of Header Fields", payload_offset and payload_length;
the kernel's scripts/Makefile.lib for what its build packs with.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ..errors import ImageError
from .bzimage import PAYLOAD_LENGTH, PAYLOAD_OFFSET, code_offset
from .elf import is_elf, parse_elf
from .image import ImageFile, KernelImage
from .layout import MIB

SIZE_MAX: Final = 512 * MIB  # the biggest distribution kernels have some 80 MiB
_SIZE_BYTES: Final = 4

Unpack = Callable[[bytes, int], bytes]
"""Takes what is packed, and how many bytes to return at most."""


def unpack_bzimage(image: KernelImage) -> KernelImage:
    """The ELF kernel in a bzImage, with the limits that the bzImage states.

    Its file is one in memory; that of `image` is closed, upon errors, too.
    Raises ImageError, naming the decompressor that lacks or what is wrong.
    """
    with image.file as file:
        packed, size = _payload(file)
        kind, unpack = _format(file, packed)
        try:
            data = unpack(packed, size + 1)
        except ImageError:
            raise
        except Exception as error:  # each library has its own
            raise file.error(f"its {kind} payload can't be unpacked: {error}") from None
        if len(data) != size:
            what = "more" if len(data) > size else len(data)
            raise file.error(f"its {kind} payload unpacks to {what}, not {size} bytes")
        if not is_elf(data):
            raise file.error(f"its {kind} payload is no ELF kernel")
        unpacked = _in_memory(file, data)
    try:
        elf = parse_elf(unpacked)
    except BaseException:
        unpacked.close()
        raise
    return replace(
        elf,
        format=f"{image.format}, {kind} payload unpacked by the host",
        end=max(elf.end, image.end),  # init_size: room for more than .bss
        cmdline_size=image.cmdline_size,
        initrd_addr_max=image.initrd_addr_max,
        setup_header=image.setup_header,
    )


def _payload(file: ImageFile) -> tuple[bytes, int]:
    """The payload, and the size of what is in it, which its last bytes say."""
    head = file.read(0, PAYLOAD_LENGTH + 4)
    offset, length = (
        int.from_bytes(head[at : at + 4], "little")
        for at in (PAYLOAD_OFFSET, PAYLOAD_LENGTH)
    )
    start = code_offset(head) + offset
    if not _SIZE_BYTES < length <= file.size - start:
        raise file.error(
            f"its payload, {length} bytes at {start}, is not in its {file.size} bytes"
        )
    payload = file.read(start, length)
    size = int.from_bytes(payload[-_SIZE_BYTES:], "little")
    if not 0 < size <= SIZE_MAX:
        raise file.error(f"its payload is to unpack to {size} bytes: is it damaged?")
    return payload, size


def _in_memory(file: ImageFile, data: bytes) -> ImageFile:
    fd = os.memfd_create("vmlinux", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as stream:
        stream.write(data)
    return ImageFile(file.role, file.path, fd)


def _format(file: ImageFile, packed: bytes) -> tuple[str, Unpack]:
    for magic, (kind, unpack) in _FORMATS.items():
        if packed.startswith(magic):
            return kind, unpack or _program(file, kind)
    raise file.error(
        f"its payload is packed in a way we don't know ({packed[:6].hex(' ')}): "
        "pass the vmlinux"
    )


# All but gzip have the size after them, which the others take for more of theirs.


def _gzip(packed: bytes, size: int) -> bytes:
    import zlib

    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS).decompress(packed, size)


def _xz_or_lzma(packed: bytes, size: int) -> bytes:
    import lzma

    return lzma.LZMADecompressor().decompress(packed[:-_SIZE_BYTES], size)


def _bzip2(packed: bytes, size: int) -> bytes:
    import bz2

    return bz2.BZ2Decompressor().decompress(packed[:-_SIZE_BYTES], size)


def _program(file: ImageFile, name: str) -> Unpack:
    """What unpacks by the program `name`."""
    path = shutil.which(name)
    if path is None:
        raise file.error(
            f"its payload is packed with {name}, which is not installed: "
            f"install {name} (Debian: apt-get install {name}), or pass the vmlinux"
        )

    def unpack(packed: bytes, size: int) -> bytes:
        with open(os.memfd_create("payload", os.MFD_CLOEXEC), "w+b") as source:
            source.write(packed[:-_SIZE_BYTES])
            source.seek(0)
            with subprocess.Popen(
                [path, "-dcq", *_OPTIONS.get(name, ())],
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            ) as process:
                assert process.stdout is not None
                data = process.stdout.read(size)
                process.kill()  # the rest is not wanted
        return data

    return unpack


# Linux packs with a window of 128 MiB, which zstd must be told it may take.
_OPTIONS: Final = {"zstd": ("--long=31",)}

_FORMATS: Final[dict[bytes, tuple[str, Unpack | None]]] = {
    b"\x1f\x8b": ("gzip", _gzip),
    b"\xfd7zXZ\0": ("xz", _xz_or_lzma),
    b"\x5d\0\0": ("lzma", _xz_or_lzma),
    b"BZh": ("bzip2", _bzip2),
    b"\x28\xb5\x2f\xfd": ("zstd", None),
    b"\x02\x21\x4c\x18": ("lz4", None),  # the legacy frame
}
