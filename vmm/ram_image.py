"""RamImage: a guest's RAM as it was at one moment, which any number may go on from."""

import errno
import fcntl
import mmap
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Self

from .errors import VmmError
from .kvm._libc import is_zero

PAGE_SIZE: Final = mmap.PAGESIZE
_CHUNK: Final = 1 << 20
_PIECE: Final = 32 << 10

# Documentation/admin-guide/mm/pagemap.rst: bits of each page's 64-bit entry, by the
# byte that they are in, the highest.
_PRESENT_OR_SWAPPED: Final = 0xC0
_FILE_OR_SHARED: Final = 0x20
_IS_OWN: Final = bytes(
    bool(byte & _PRESENT_OR_SWAPPED and not byte & _FILE_OR_SHARED)
    for byte in range(256)
)
LIVES: Final = 3
"""Of its machines' lives, those that tell which pages each of them writes to."""
HOT_MAX: Final = 1024
"""Pages of them at most."""
_SEALS: Final = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
)


class RamImage:
    """`size` bytes in a memfd that nobody can change any more: clean pages are shared.

    Sealed, it can't be truncated under a mapping, which would be a SIGBUS there. It is
    there for as long as somebody has it: a snapshot, or a machine that goes on from it.
    """

    def __init__(self, fd: int, size: int) -> None:
        """Takes `fd`, and seals it: no shared mapping may be writable."""
        self.fd = fd
        self.size = size
        self.hot: list[tuple[int, int]] = []
        """Start and end of runs that most machines write to, in bytes, once known."""
        self._lives = 0
        self._tally: Counter[int] = Counter()  # in how many of them, by page
        self._lock = threading.Lock()
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)

    @classmethod
    def of(cls, view: memoryview, address: int, base: "RamImage | None") -> Self:
        """A copy of RAM at `address`, a private mapping of `base` or of nothing.

        Raises VmmError where there is no memory for it.
        """

        def fill(fd: int) -> None:
            if base is not None:
                for start, end in base.extents():
                    _copy(base.fd, fd, start, end)
            for start, end in own_pages(address, len(view)):
                if base is not None:
                    _write(fd, view[start:end], start)
                    continue
                # The host gives huge pages, of which a guest uses a part.
                for at in range(start, end, _PIECE):
                    size = min(_PIECE, end - at)
                    if not is_zero(address + at, size):
                        _write(fd, view[at : at + size], at)

        try:
            return cls.made(len(view), fill)
        except OSError as error:
            raise no_memory(len(view), error) from None

    @classmethod
    def load(cls, file: int, size: int) -> Self:
        """A copy of a file, which may change later. Raises OSError, VmmError."""

        def fill(fd: int) -> None:
            for start, end in extents(file, size):
                _copy(file, fd, start, end)

        return cls.made(size, fill)

    @classmethod
    def made(cls, size: int, fill: Callable[[int], None]) -> Self:
        """What `fill` has put into a memfd of zeros. Raises VmmError."""
        fd = new_memfd("guest-ram", size)
        try:
            fill(fd)
            return cls(fd, size)
        except BaseException:
            os.close(fd)
            raise

    def save(self, file: int) -> None:
        """Write it to an empty file; zeros are holes there. Raises OSError."""
        os.truncate(file, self.size)
        for start, end in self._written():
            _copy(self.fd, file, start, end)

    def _written(self) -> Iterator[tuple[int, int]]:
        """Start and end of each run of pages that aren't zero."""
        zeros = bytes(PAGE_SIZE)
        with mmap.mmap(
            self.fd, self.size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ
        ) as view:
            for first, last in self.extents():
                start = None
                for at in range(first, last, PAGE_SIZE):
                    if view[at : at + PAGE_SIZE] != zeros:
                        start = at if start is None else start
                    elif start is not None:
                        yield start, at
                        start = None
                if start is not None:
                    yield start, last

    def learn(self, address: int) -> None:
        """A machine whose RAM at `address` this was is put back, or ends."""
        with self._lock:
            if self._lives == LIVES:
                return
            for start, end in own_pages(address, self.size):
                self._tally.update(range(start, end, PAGE_SIZE))
            self._lives += 1
            if self._lives == LIVES:
                pages = [p for p, lives in self._tally.items() if 2 * lives > LIVES]
                self.hot = _runs(sorted(pages)) if len(pages) <= HOT_MAX else []
                self._tally.clear()

    def extents(self) -> Iterator[tuple[int, int]]:
        """Start and end of each run that isn't a hole, in bytes."""
        return extents(self.fd, self.size)

    def allocated(self) -> int:
        """Bytes of memory that it takes."""
        return os.fstat(self.fd).st_blocks * 512

    def __del__(self) -> None:
        os.close(self.fd)


def _runs(pages: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end of each run of pages, which are in order, in bytes."""
    runs: list[tuple[int, int]] = []
    for page in pages:
        if runs and runs[-1][1] == page:
            runs[-1] = runs[-1][0], page + PAGE_SIZE
        else:
            runs.append((page, page + PAGE_SIZE))
    return runs


def no_memory(size: int, error: OSError) -> VmmError:
    """What to raise when the host hasn't got it."""
    return VmmError(
        f"the host has no memory for a copy of {size >> 20} MiB of guest RAM: "
        f"{error.strerror}"
    )


def new_memfd(name: str, size: int) -> int:
    """An empty one that can be sealed. Raises VmmError."""
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise no_memory(size, error) from None
    try:
        os.truncate(fd, size)
    except OSError as error:
        os.close(fd)
        raise no_memory(size, error) from None
    return fd


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each run of a file that isn't a hole, in bytes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return  # nothing but a hole follows
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, end


def own_pages(address: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of each run of pages that a private mapping has of its own.

    Those are the pages that somebody, guest or VMM, has written to. Offsets from
    `address`, in bytes.
    """
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entries = os.pread(
            pagemap.fileno(), size // PAGE_SIZE * 8, address // PAGE_SIZE * 8
        )
    is_own = entries[7::8].translate(_IS_OWN)
    end = 0
    while (start := is_own.find(1, end)) >= 0:
        end = is_own.find(0, start)
        if end < 0:
            end = len(is_own)
        yield start * PAGE_SIZE, end * PAGE_SIZE


def _copy(source: int, target: int, start: int, end: int) -> None:
    os.lseek(target, start, os.SEEK_SET)
    while start < end:
        count = os.sendfile(target, source, start, end - start)
        if not count:
            raise OSError(0, "the source has become shorter")
        start += count


def _write(fd: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done : done + _CHUNK], offset + done)
