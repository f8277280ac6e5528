"""Layer: what was written above an image, at its place, in a file with holes.

One that stays is a file with a header, a map that says for each 4 KiB whether it is
there, and the data. Its header is text, in JSON.
"""

import errno
import json
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, Self

from ..page_runs import extents
from .disk_file import Stamp
from .file_io import copy_range, read_at, write_at

CLUSTER: Final = 4096
FORMAT: Final = "minivmm overlay"
VERSION: Final = 1
HEADER_SIZE: Final = 8192
_START: Final = f'{{"format": "{FORMAT}"'.encode()
_ROOM: Final = 1 << 40
"""A disk may grow to this size without its map having to move."""
MAP_PAGE: Final = 4096
FOLDER: Final = "/var/tmp"  # where QEMU has such files, too: /tmp may be RAM
_OWNED: Final = re.compile(rb"([^\0])\1*", re.DOTALL)


class Owners:
    """Which layer has each cluster of a disk: its number, from 1 on; 0 is the image."""

    def __init__(self, size: int) -> None:
        """All are the image's, of a disk of `size` bytes."""
        self.count = clusters(size)
        self.map = mmap.mmap(-1, self.count)  # of pages that cost nothing yet

    def copy(self, size: int) -> "Owners":
        """Another one, of a disk of `size`, which isn't less."""
        other = Owners(size)
        other.map[: self.count] = self.map[:]
        return other

    def __getitem__(self, clusters: slice) -> bytes:
        return self.map[clusters]

    def set(self, first: int, end: int, owner: int) -> None:
        """Of clusters [first, end)."""
        self.map[first:end] = bytes((owner,)) * (end - first)

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """First cluster, end, and owner of each run that isn't the image's."""
        for found in _OWNED.finditer(self.map):
            yield *found.span(), found[0][0]


class Layer:
    """A file that has a disk's bytes from `data_at` on."""

    def __init__(self, fd: int, data_at: int = 0) -> None:
        """Takes `fd`."""
        self.fd = fd
        self.data_at = data_at

    @classmethod
    def anonymous(cls, size: int) -> Self:
        """One that is gone when it is closed, however that comes. Raises OSError."""
        layer = cls(nameless_file())
        os.truncate(layer.fd, size)
        return layer

    def share(self) -> "Layer":
        """Another one, which stays open when this is closed."""
        return Layer(os.dup(self.fd), self.data_at)

    def copy_to(self, other: "Layer", start: int, size: int) -> None:
        """Copy bytes of the disk. Raises OSError."""
        fds = self.fd, self.data_at + start, other.fd, other.data_at + start
        copy_range(*fds, size)

    def close(self) -> None:
        """Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            self.close()


def nameless_file() -> int:
    """A descriptor of a file in $TMPDIR that nobody else has. Raises OSError."""
    folder = os.environ.get("TMPDIR", FOLDER)
    try:
        flags = os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC
        return os.open(folder, flags, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
    import tempfile  # for file systems that know only ones with names, at first

    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        return os.dup(file.fileno())


class KeptLayer(Layer):
    """One that stays, above an image whose stamp is known to it.

    Its map is written by `write_map` alone, after what it tells of is durable: what is
    lost with a machine that is killed, or a host, is what no flush was asked for.
    """

    def __init__(self, fd: int, header: dict[str, int]) -> None:
        """Takes `fd`, of a file with that header."""
        super().__init__(fd, header["data_at"])
        self._header = header
        self.size = header["size"]

    @classmethod
    def make(cls, fd: int, size: int, base: Stamp) -> Self:
        """Make an empty file one for a disk of `size`. Raises OSError."""
        data_at = HEADER_SIZE + -(-clusters(max(size, _ROOM)) // CLUSTER) * CLUSTER
        layer = cls(
            os.dup(fd),
            {
                "size": size,
                "base_size": base.size,
                "base_mtime_ns": base.mtime_ns,
                "map_at": HEADER_SIZE,
                "data_at": data_at,
            },
        )
        layer.resize(size)
        return layer

    @classmethod
    def open(cls, fd: int, base: Stamp) -> Self:
        """One that is there already.

        Raises OSError, whose strerror says what is wrong with it.
        """
        header = _header(os.pread(fd, HEADER_SIZE, 0))
        if Stamp(header["base_size"], header["base_mtime_ns"]) != base:
            raise OSError(
                errno.EINVAL,
                "is the overlay of another image, or its image was changed since: what "
                "it has fits that one alone",
            )
        return cls(os.dup(fd), header)

    def resize(self, size: int) -> None:
        """Be one of a disk of `size`, not less than before. Raises OSError."""
        if clusters(size) > self.data_at - self._header["map_at"]:
            raise OSError(errno.EFBIG, f"can't be an overlay of {size} bytes")
        self._header["size"] = self.size = size
        text = json.dumps({"format": FORMAT, "version": VERSION, **self._header})
        os.truncate(self.fd, self.data_at + size)
        header = text.encode().ljust(HEADER_SIZE - 1) + b"\n"
        write_at(self.fd, [memoryview(header)], 0)

    def read_map(self, owners: Owners, owner: int) -> None:
        """Have `owner` own what the file says that it has. Raises OSError."""
        map_at = self._header["map_at"]
        end = map_at + clusters(self.size)
        for start, stop in extents(self.fd, end):
            at = max(start, map_at)
            if at >= stop:
                continue
            data = bytearray(stop - at)
            read_at(self.fd, [memoryview(data)], at)
            for found in _OWNED.finditer(data):
                first, last = found.span()
                owners.set(at - map_at + first, at - map_at + last, owner)

    def write_map(self, owners: Owners, owner: int, pages: Iterable[int]) -> None:
        """Write these pages of it, of 4096 clusters each. Raises OSError."""
        is_own = bytes(each == owner for each in range(256))
        for page in pages:
            first = page * MAP_PAGE
            data = owners[first : first + MAP_PAGE].translate(is_own)
            write_at(self.fd, [memoryview(data)], self._header["map_at"] + first)


_FIELDS: Final = ("size", "base_size", "base_mtime_ns", "map_at", "data_at")


def _header(data: bytes) -> dict[str, int]:
    """Raises OSError for what is none of ours."""
    if not data.startswith(_START):
        raise OSError(errno.EINVAL, "is there, and is no overlay of ours")
    try:
        header: Any = json.loads(data)
    except ValueError:
        raise OSError(errno.EINVAL, "is an overlay with a damaged header") from None
    if header.get("version") != VERSION:
        raise OSError(errno.EINVAL, f"is an overlay of a version that isn't {VERSION}")
    fields = {name: header.get(name) for name in _FIELDS}
    numbers = all(type(value) is int and value >= 0 for value in fields.values())
    if not numbers or not 0 < clusters(fields["size"]) <= (
        fields["data_at"] - fields["map_at"]
    ):
        raise OSError(errno.EINVAL, "is an overlay with a damaged header")
    return fields


def clusters(size: int) -> int:
    """How many there are in so many bytes."""
    return -(-size // CLUSTER)
