"""Runs of pages: of a file, and of a private mapping, as offsets in bytes."""

import errno
import mmap
import os
from collections.abc import Iterable, Iterator
from typing import Final

PAGE_SIZE: Final = mmap.PAGESIZE

Run = tuple[int, int]
"""Where it starts, and where it ends."""

# Documentation/admin-guide/mm/pagemap.rst: bits of each page's 64-bit entry, by the
# byte that they are in, the highest.
_PRESENT_OR_SWAPPED: Final = 0xC0
_FILE_OR_SHARED: Final = 0x20
_IS_OWN: Final = bytes(
    bool(byte & _PRESENT_OR_SWAPPED and not byte & _FILE_OR_SHARED)
    for byte in range(256)
)


def extents(fd: int, size: int) -> Iterator[Run]:
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


def has_data(fd: int, start: int, end: int) -> bool:
    """Whether [start, end) of a file is anything but a hole."""
    try:
        return os.lseek(fd, start, os.SEEK_DATA) < end
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return False


def merged(runs: Iterable[Run], more: Run) -> list[Run]:
    """`runs` and one `more`, in order, none of them touching another."""
    start, end = more
    before, after = [], []
    for run in runs:
        if run[1] < start:
            before.append(run)
        elif run[0] > end:
            after.append(run)
        else:
            start, end = min(start, run[0]), max(end, run[1])
    return [*before, (start, end), *after]


def own_pages(address: int, size: int) -> Iterator[Run]:
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


def without(runs: Iterable[Run], others: Iterable[Run]) -> Iterator[Run]:
    """What of `runs` isn't in `others`; each in order, and apart from each other."""
    left = iter(others)
    other = next(left, None)
    for start, end in runs:
        while other is not None and other[0] < end:
            if start < other[0]:
                yield start, other[0]
            start = max(start, other[1])
            if other[1] > end:
                break
            other = next(left, None)
        if start < end:
            yield start, end
