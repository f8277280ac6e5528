"""Users' files, opened so that nothing that lies in their place can hold us up."""

import errno
import os
import stat
from typing import Final

_CHUNK: Final = 1 << 20
_OTHERS: Final = {
    stat.S_IFDIR: "is a directory, not a file",
    stat.S_IFIFO: "is a pipe, not a file: put what it has into a file first",
    stat.S_IFSOCK: "is a socket, not a file",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
}


def open_regular(path: str | os.PathLike[str]) -> int:
    """A descriptor for reading the regular file at `path`; never blocks.

    Raises OSError, whose strerror says what is wrong, or what it is instead.
    """
    try:
        # To open a device may have effects already: so look first.
        _check_regular(os.stat(path))
        # What has come in its place since then is found out, too: a FIFO would
        # block an open for reading until somebody writes.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        fd = os.open(path, flags)
    except ValueError as error:  # a NUL byte in the path
        raise OSError(errno.EINVAL, str(error)) from None
    try:
        _check_regular(os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = stat.S_IFMT(status.st_mode)
        raise OSError(errno.EINVAL, _OTHERS.get(kind, "is not a regular file"))


def read_up_to(path: str | os.PathLike[str], size: int) -> bytes:
    """What the regular file at `path` has, but at most `size` bytes of it.

    Raises OSError, as `open_regular`, and for files of /proc and the like that wait
    for more to come, where they end.
    """
    fd = open_regular(path)
    try:
        parts = []
        while size > 0 and (part := os.read(fd, min(size, _CHUNK))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
    except BlockingIOError:
        raise OSError(
            errno.EAGAIN, "has no end: it waits for more to come, as a log"
        ) from None
    finally:
        os.close(fd)
