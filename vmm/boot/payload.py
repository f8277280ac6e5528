"""What a bzImage unpacks into, unpacked by the host.

Sources: boot.rst, "Details of Header Fields", payload_offset and payload_length;
the kernel's scripts/Makefile.lib for what its build packs with.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol

from ..devices.record import Record
from ..errors import ImageError
from .bzimage import PAYLOAD_LENGTH, PAYLOAD_OFFSET, code_offset
from .elf import is_elf
from .elf_kernel import parse_elf
from .image import PVH, ImageFile, KernelImage
from .layout import MIB

SIZE_MAX: Final = 512 * MIB  # the biggest distribution kernels have some 80 MiB
RATIO_MAX: Final = 64  # kernels are packed to a third, or a seventh at best
SIZE_SMALL: Final = 16 * MIB  # not worth to look at the ratio
_SIZE_BYTES: Final = 4
_CHUNK: Final = MIB


class Payload(Record):
    """Where in a bzImage its kernel is: `length` bytes at `start`, packed by `kind`.

    Unpacked they are to be `size` bytes.
    """

    kind: str
    start: int
    length: int
    size: int


class _Stream(Protocol):
    """What is unpacked; to read its end raises if bytes lack or a sum is wrong."""

    def read(self, size: int, /) -> bytes: ...


class _Decompressor(Protocol):
    """As bz2 and lzma have one, for a single stream."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def unpack_bzimage(image: KernelImage, protocol: str = "auto") -> KernelImage:
    """The ELF kernel in a bzImage, with the limits that the bzImage states.

    It is entered by `protocol`, and, but for PVH, keeps the setup header. A bzImage
    that names no payload (payload_length is 0), as memtest86+, is `image` itself,
    but has no PVH entry.

    Its file is one in memory; that of `image` is closed, upon errors, too. It has no
    more bytes than init_size, so that there is RAM for it if there is for `image`.
    Raises ImageError, naming the decompressor that lacks or what is wrong.
    """
    length = int.from_bytes(image.file.read(PAYLOAD_LENGTH, 4), "little")
    if not length and protocol != PVH:
        return image
    with image.file as file:
        if not length:
            raise file.error("has no PVH entry: it names no payload that could have it")
        payload = find_payload(file)
        kind = payload.kind
        if payload.size > image.end - image.start:
            raise file.error(
                f"its {kind} payload is to unpack to {payload.size} bytes, and "
                f"init_size has room for {image.end - image.start}: is it damaged?"
            )
        unpacked = _unpack(file, payload)
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


def find_payload(file: ImageFile) -> Payload:
    """How the kernel is packed. Raises ImageError where that can't be."""
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
    if not 0 < size <= min(SIZE_MAX, max(RATIO_MAX * length, SIZE_SMALL)):
        raise file.error(
            f"its payload, {length} bytes, is to unpack to {size}: is it damaged?"
        )
    # gzip itself ends with the size. The build appends it to all others, which
    # would take it for more of theirs (scripts/Makefile.lib, size_append).
    packed = length if kind == "gzip" else length - _SIZE_BYTES
    return Payload(kind, start, packed, size)


def _kind(file: ImageFile, head: bytes) -> str:
    for magic, kind in _KINDS.items():
        if head.startswith(magic):
            return kind
    raise file.error(
        f"its payload is packed in a way we don't know ({head.hex(' ')}): "
        "pass the vmlinux"
    )


def _unpack(file: ImageFile, payload: Payload) -> ImageFile:
    """What is in it, as a file in memory."""
    kind, size = payload.kind, payload.size
    with ExitStack() as upon_error:
        try:
            fd = os.memfd_create("vmlinux", os.MFD_CLOEXEC)
            upon_error.callback(os.close, fd)
            with _opened(file, payload) as stream:
                done = _copy(stream, fd, size + 1)
        except ImageError:
            raise
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


@contextmanager
def _opened(file: ImageFile, payload: Payload) -> Iterator[_Stream]:
    kind = payload.kind
    if kind in _PROGRAMS:
        path = shutil.which(kind)
        if path is None:
            raise file.error(
                f"its payload is packed with {kind}, which is not installed: "
                f"install {kind} (Debian: apt-get install {kind}), or pass the vmlinux"
            )
        with _run(path, _pieces(file, payload)) as stream:
            yield stream
        return
    if kind not in _LIBRARIES:
        raise file.error(
            f"its payload is packed with {kind}, which we don't unpack: "
            "pass the vmlinux"
        )
    yield _OneStream(_LIBRARIES[kind](), _pieces(file, payload))


def _pieces(file: ImageFile, payload: Payload) -> Iterator[bytes]:
    """What is packed, piece by piece."""
    at, end = payload.start, payload.start + payload.length
    while piece := file.read(at, min(_CHUNK, end - at)):
        yield piece
        at += len(piece)


class _OneStream:
    """What one stream unpacks to; what follows it is ignored, as the kernel does.

    Of streams that have nothing in them there could be millions.
    """

    def __init__(self, decompressor: _Decompressor, packed: Iterator[bytes]) -> None:
        self._decompressor = decompressor
        self._packed = packed

    def read(self, size: int) -> bytes:
        while size and not self._decompressor.eof:  # 0 would be no limit for zlib
            piece = b""
            if self._decompressor.needs_input:
                piece = next(self._packed, b"")
                if not piece:
                    raise EOFError("it ended before its end-of-stream marker")
            if data := self._decompressor.decompress(piece, size):
                return data
        return b""


class _Gunzip:
    """zlib's, in the form of the others."""

    def __init__(self) -> None:
        import zlib

        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # gzip alone

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def _bunzip2() -> _Decompressor:
    import bz2

    return bz2.BZ2Decompressor()


def _unxz() -> _Decompressor:
    """Of xz and lzma; no window that is larger than all that it could hold."""
    import lzma

    return lzma.LZMADecompressor(memlimit=2 * SIZE_MAX)


@contextmanager
def _run(program: str, packed: Iterator[bytes]) -> Iterator[_Stream]:
    """What `program` unpacks, as a stream; OSError at its end if it failed."""
    with open(os.memfd_create("payload", os.MFD_CLOEXEC), "w+b") as source:
        source.writelines(packed)
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


_LIBRARIES: Final[dict[str, Callable[[], _Decompressor]]] = {
    "gzip": _Gunzip,
    "bzip2": _bunzip2,
    "xz": _unxz,
    "lzma": _unxz,
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
