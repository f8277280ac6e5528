"""Who has an image: QEMU's locks, by which its programs and we keep out of each other.

A byte that is locked, for reading always, says what its holder does (100 and on) or
stands from nobody else (200 and on). Source: QEMU, block/file-posix.c.
"""

import errno
import fcntl
from struct import Struct
from typing import Final

_FLOCK: Final = Struct("hhqqi4x")  # l_type, l_whence, l_start, l_len, l_pid
_DOES: Final = 100
_MINDS: Final = 200
_READ: Final = 0  # BLK_PERM_CONSISTENT_READ and so on, as bits
_WRITE: Final = 1
_RESIZE: Final = 3
_UNSUPPORTED: Final = (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def lock_image(fd: int, *, writes: bool) -> None:
    """Have it to oneself, or, if nobody `writes`, with others; until `fd` is closed.

    Of all descriptors that were duplicated from it the last one counts. Where there
    are no such locks there is none. Raises BlockingIOError, which says who is there.
    """
    changes = (_WRITE, _RESIZE)
    does = (_READ, *changes) if writes else (_READ,)
    try:
        for byte in (*(_DOES + it for it in does), *(_MINDS + it for it in changes)):
            lock = _FLOCK.pack(fcntl.F_RDLCK, 0, byte, 1, 0)
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
        if any(_is_locked(fd, _DOES + it) for it in changes):
            raise BlockingIOError(errno.EAGAIN, "somebody else writes to it")
        if any(_is_locked(fd, _MINDS + it) for it in does):
            raise BlockingIOError(errno.EAGAIN, "somebody else has it in use")
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def _is_locked(fd: int, byte: int) -> bool:
    """By others."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, 0, byte, 1, 0)
    kind: int = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0]
    return kind != fcntl.F_UNLCK
