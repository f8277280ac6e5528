"""Reads and writes that are done whole, or raise; and holes in files."""

import errno
import os
from collections.abc import Callable, Sequence
from typing import Final

from ..kvm._libc import FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, fallocate

IOV_MAX: Final = os.sysconf("SC_IOV_MAX")
_ZEROS: Final = memoryview(bytes(1 << 20))
_CANT: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EINVAL)


def read_at(fd: int, views: Sequence[memoryview], offset: int) -> None:
    """Fill them with what is there. Raises OSError, also where the file ends."""
    _all(os.preadv, fd, views, offset)


def write_at(fd: int, views: Sequence[memoryview], offset: int) -> None:
    """Write all of them. Raises OSError."""
    _all(os.pwritev, fd, views, offset)


def _all(
    call: Callable[[int, Sequence[memoryview], int], int],
    fd: int,
    views: Sequence[memoryview],
    offset: int,
) -> None:
    left = sum(map(len, views))
    while left:
        done = call(fd, views[:IOV_MAX], offset)
        if done == left:
            return
        if not done:
            raise OSError(errno.EIO, "it has become shorter while it is in use")
        offset += done
        left -= done
        views = behind(views, done)


def behind(views: Sequence[memoryview], size: int) -> list[memoryview]:
    """All but the first `size` bytes."""
    return part(views, size, sum(map(len, views)))


def part(views: Sequence[memoryview], start: int, end: int) -> list[memoryview]:
    """Bytes `start` to `end` of them."""
    found = []
    for view in views:
        size = len(view)
        if start < size and end > 0:
            found.append(view[max(start, 0) : end])
        start -= size
        end -= size
    return found


def punch_hole(fd: int, offset: int, size: int) -> bool:
    """Have zeros without space behind them; False where the file can't have that."""
    return _fallocated(fd, FALLOC_FL_PUNCH_HOLE, offset, size)


def write_zeros(fd: int, offset: int, size: int, *, may_punch: bool) -> None:
    """Have zeros there, by the quickest way there is. Raises OSError."""
    if may_punch and punch_hole(fd, offset, size):
        return
    if not _fallocated(fd, FALLOC_FL_ZERO_RANGE, offset, size):
        while size:
            count = min(size, len(_ZEROS))
            write_at(fd, [_ZEROS[:count]], offset)
            offset += count
            size -= count


def _fallocated(fd: int, mode: int, offset: int, size: int) -> bool:
    if size:
        try:
            fallocate(fd, mode, offset, size)
        except OSError as error:
            if error.errno not in _CANT:
                raise
            return False
    return True


def copy_range(source: int, at: int, target: int, to: int, size: int) -> None:
    """Copy a part of a file into another, by reference where both can. OSError."""
    by_kernel = True
    while size:
        if by_kernel:
            try:
                done = os.copy_file_range(source, target, size, at, to)
            except OSError as error:
                if error.errno not in (*_CANT, errno.EXDEV):
                    raise
                by_kernel = False
                continue
        else:
            data = os.pread(source, min(size, len(_ZEROS)), at)
            write_at(target, [memoryview(data)], to)
            done = len(data)
        if not done:
            raise OSError(errno.EIO, "it has become shorter while it is in use")
        at, to, size = at + done, to + done, size - done
