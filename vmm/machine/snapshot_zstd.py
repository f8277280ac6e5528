"""`memory.zst`: a guest's RAM compressed, by Python 3.14's own zstd or zstandard.

`zstd -d` makes `memory` of it.
"""

import os
from collections.abc import Iterator
from typing import IO, Any, Final

from ..errors import ImageError, VmmError
from ..page_runs import PAGE_SIZE
from ..ram_image import RamImage, available_memory

try:
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]

    ZstdError: Any = zstd.ZstdError
    _OPTIONS: Final = {
        zstd.CompressionParameter.compression_level: 3,
        zstd.CompressionParameter.checksum_flag: 1,
    }

    def _compressor() -> Any:  # noqa: ANN401
        return zstd.ZstdCompressor(options=_OPTIONS)

    def _reader(file: "IO[bytes]") -> Any:  # noqa: ANN401
        return zstd.ZstdFile(file)

except ImportError:
    import zstandard

    ZstdError = zstandard.ZstdError

    def _compressor() -> Any:  # noqa: ANN401
        return zstandard.ZstdCompressor(3, write_checksum=True).compressobj()

    def _reader(file: "IO[bytes]") -> Any:  # noqa: ANN401
        return zstandard.ZstdDecompressor().stream_reader(file)


_CHUNK: Final = 1 << 20
_ZEROS: Final = bytes(_CHUNK)
_RESERVE: Final = 64 << 20  # of the host's memory


def compress(ram: RamImage, file: "IO[bytes]") -> None:
    """Write all of it, holes as the zeros that they are. Raises OSError."""
    compressor = _compressor()
    for piece in _pieces(ram):
        file.write(compressor.compress(piece))
    file.write(compressor.flush())


def _pieces(ram: RamImage) -> Iterator[bytes]:
    end = 0
    for start, stop in (*ram.extents(), (ram.size, ram.size)):
        for at in range(end, start, _CHUNK):
            yield _ZEROS[: start - at]
        for at in range(start, stop, _CHUNK):
            yield os.pread(ram.fd, min(_CHUNK, stop - at), at)
        end = stop


def decompress(file: "IO[bytes]", size: int) -> RamImage:
    """Raises ImageError unless it is `size` bytes of RAM; VmmError, OSError."""
    reader = _reader(file)

    def fill(fd: int) -> None:
        at = 0
        while piece := reader.read(min(_CHUNK, size + 1 - at)):
            if at + len(piece) > size:
                raise ImageError(f"memory.zst has more than the {size} bytes of RAM")
            if piece != _ZEROS[: len(piece)]:
                if available_memory() < _RESERVE:  # the host would kill somebody
                    raise VmmError(
                        f"the host has no memory for {size >> 20} MiB of guest RAM"
                    )
                _write_pages(fd, piece, at)
            at += len(piece)
        if at < size:
            raise ImageError(f"memory.zst ends after {at} of the {size} bytes of RAM")

    try:
        return RamImage.made(size, fill)
    except (ZstdError, EOFError) as error:
        raise ImageError(f"memory.zst is damaged: {error}") from None


def _write_pages(fd: int, piece: bytes, at: int) -> None:
    """Those that aren't zero, which are holes then."""
    zeros = _ZEROS[:PAGE_SIZE]
    for start in range(0, len(piece), PAGE_SIZE):
        page = piece[start : start + PAGE_SIZE]
        if page != zeros[: len(page)]:
            os.pwrite(fd, page, at + start)
