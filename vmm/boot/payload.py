"""What a bzImage unpacks into, unpacked by the host.

Sources: boot.rst, "Details of Header Fields", payload_offset and payload_length;
the kernel's scripts/Makefile.lib for what its build packs with.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from io import BytesIO
from typing import Final, Protocol

from .bzimage import PAYLOAD_LENGTH, PAYLOAD_OFFSET, code_offset
from .elf import is_elf, parse_elf
from .image import PVH, ImageFile, KernelImage
from .layout import MIB

SIZE_MAX: Final = 512 * MIB  # the biggest distribution kernels have some 80 MiB
_SIZE_BYTES: Final = 4
_CHUNK: Final = MIB


class _Stream(Protocol):
    """What is unpacked; to read its end raises if bytes lack or a sum is wrong."""

    def read(self, size: int, /) -> bytes: ...


_Opened = AbstractContextManager[_Stream]
_Open = Callable[[bytes], _Opened]
"""Takes what is packed."""


def unpack_bzimage(image: KernelImage, protocol: str = "auto") -> KernelImage:
    """The ELF kernel in a bzImage, with the limits that the bzImage states.

    It is entered by `protocol`, and, but for PVH, keeps the setup header. A bzImage
    that names no payload (payload_length is 0), as memtest86+, is `image` itself,
    but has no PVH entry.

    Its file is one in memory; that of `image` is closed, upon errors, too.
    Raises ImageError, naming the decompressor that lacks or what is wrong.
    """
    length = int.from_bytes(image.file.read(PAYLOAD_LENGTH, 4), "little")
    if not length and protocol != "pvh":
        return image
    with image.file as file:
        kind, start, length, size = find_payload(file)
        unpacked = _unpack(file, kind, file.read(start, length), size)
    try:
        if not is_elf(unpacked.read(0, 4)):
            raise file.error(f"its {kind} payload is no ELF kernel")
        elf = parse_elf(unpacked, protocol)
    except BaseException:
        unpacked.close()
        raise
    return elf.replace(
        format=f"{image.format}, {kind} payload unpacked by the host",
        end=max(elf.end, image.end),  # init_size: room for more than .bss
        cmdline_size=image.cmdline_size,
        initrd_addr_max=image.initrd_addr_max,
        setup_header=b"" if protocol == PVH else image.setup_header,
    )


def find_payload(file: ImageFile) -> tuple[str, int, int, int]:
    """How the kernel is packed, where, in how many bytes, and its size unpacked."""
    head = file.read(0, PAYLOAD_LENGTH + 4)
    offset, length = (
        int.from_bytes(head[at : at + 4], "little")
        for at in (PAYLOAD_OFFSET, PAYLOAD_LENGTH)
    )
    start = code_offset(head) + offset
    if not _SIZE_BYTES < length <= min(file.size - start, SIZE_MAX):
        raise file.error(
            f"its payload, {length} bytes at {start} of {file.size}, can't be there: "
            "is it damaged?"
        )
    kind = _kind(file, file.read(start, min(length, 6)))
    end = start + length - _SIZE_BYTES
    size = int.from_bytes(file.read(end, _SIZE_BYTES), "little")
    if not 0 < size <= SIZE_MAX:
        raise file.error(f"its payload is to unpack to {size} bytes: is it damaged?")
    # gzip itself ends with the size. The build appends it to all others, which
    # would take it for more of theirs (scripts/Makefile.lib, size_append).
    return kind, start, length if kind == "gzip" else length - _SIZE_BYTES, size


def _kind(file: ImageFile, head: bytes) -> str:
    for magic, kind in _KINDS.items():
        if head.startswith(magic):
            return kind
    raise file.error(
        f"its payload is packed in a way we don't know ({head.hex(' ')}): "
        "pass the vmlinux"
    )


def _unpack(file: ImageFile, kind: str, packed: bytes, size: int) -> ImageFile:
    """What is in `packed`, `size` bytes, as a file in memory."""
    open_stream = _opener(file, kind)
    with ExitStack() as upon_error:
        try:
            fd = os.memfd_create("vmlinux", os.MFD_CLOEXEC)
            upon_error.callback(os.close, fd)
            with open_stream(packed) as stream:
                done = _copy(stream, fd, size + 1)
        except Exception as error:  # each library has its own
            raise file.error(f"its {kind} payload can't be unpacked: {error}") from None
        if done != size:
            what = "more" if done > size else done
            raise file.error(f"its {kind} payload unpacks to {what}, not {size} bytes")
        upon_error.pop_all()
    return ImageFile(file.role, file.path, fd)


def _copy(stream: _Stream, fd: int, size: int) -> int:
    """Copy up to `size` bytes; return how many there were."""
    done = 0
    with open(fd, "wb", closefd=False) as target:
        while chunk := stream.read(min(_CHUNK, size - done)):
            done += target.write(chunk)
    return done


def _opener(file: ImageFile, kind: str) -> _Open:
    if kind in _LIBRARIES:
        return _LIBRARIES[kind]
    if kind not in _PROGRAMS:
        raise file.error(
            f"its payload is packed with {kind}, which we don't unpack: "
            "pass the vmlinux"
        )
    path = shutil.which(kind)
    if path is None:
        raise file.error(
            f"its payload is packed with {kind}, which is not installed: "
            f"install {kind} (Debian: apt-get install {kind}), or pass the vmlinux"
        )
    return partial(_run, path)


def _gzip(packed: bytes) -> _Opened:
    import gzip

    return gzip.open(BytesIO(packed))


def _bzip2(packed: bytes) -> _Opened:
    import bz2

    return bz2.open(BytesIO(packed))


def _xz_or_lzma(packed: bytes) -> _Opened:
    import lzma

    return lzma.open(BytesIO(packed))


@contextmanager
def _run(program: str, packed: bytes) -> Iterator[_Stream]:
    """What `program` unpacks, as a stream; OSError at its end if it failed."""
    with open(os.memfd_create("payload", os.MFD_CLOEXEC), "w+b") as source:
        source.write(packed)
        source.seek(0)
        with subprocess.Popen(
            [program, "-dcq"],
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            yield process.stdout
            # Not at its end: more than wanted, of which the reader tells.
            whole = not process.stdout.read(1)
    if whole and process.returncode:
        raise OSError(f"{program} failed with status {process.returncode}")


_LIBRARIES: Final[dict[str, _Open]] = {
    "gzip": _gzip,
    "bzip2": _bzip2,
    "xz": _xz_or_lzma,
    "lzma": _xz_or_lzma,
}
_PROGRAMS: Final = ("zstd", "lz4")
_KINDS: Final = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\0\0": "lzma",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x02\x21\x4c\x18": "lz4",  # the legacy frame
    b"\x89LZO": "LZO",
}
