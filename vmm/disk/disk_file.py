"""DiskFile: a file or a block device of the host's that has a disk's bytes."""

import errno
import fcntl
import os
import stat
from struct import unpack
from typing import Final, NamedTuple, Self

from .locks import lock_image

_OTHERS: Final = {
    stat.S_IFDIR: "is a directory, not an image",
    stat.S_IFIFO: "is a pipe, not an image",
    stat.S_IFSOCK: "is a socket, not an image",
    stat.S_IFCHR: "is a character device, not an image",
}
_BLKGETSIZE64: Final = 0x8008_1272  # <linux/fs.h>
_BLKSSZGET: Final = 0x1268
_BLKPBSZGET: Final = 0x127B
_SECTOR: Final = 512
_FILE_BLOCK: Final = 4096  # of most file systems: less is read before it is written


class Stamp(NamedTuple):
    """What tells whether a file has changed; of a block device nothing does."""

    size: int
    mtime_ns: int


class DiskFile:
    """One that is open, and locked for as long as it or one that shares it is."""

    def __init__(self, fd: int, path: str) -> None:
        """Takes `fd`."""
        self.fd = fd
        self.path = path
        self.is_device = stat.S_ISBLK(os.fstat(fd).st_mode)
        self.block_size, self.physical_block_size = 512, _FILE_BLOCK
        if self.is_device:
            self.block_size = self._ask(_BLKSSZGET)
            self.physical_block_size = max(self._ask(_BLKPBSZGET), self.block_size)

    @classmethod
    def open(cls, path: str, *, writes: bool) -> Self:
        """Raises OSError, whose strerror says what is wrong with `path`."""
        try:
            status = os.stat(path)  # to open some devices has effects already
            if stat.S_IFMT(status.st_mode) in _OTHERS:
                raise OSError(errno.EINVAL, _OTHERS[stat.S_IFMT(status.st_mode)])
            flags = os.O_RDWR if writes else os.O_RDONLY
            if writes and stat.S_ISBLK(status.st_mode):
                flags |= os.O_EXCL  # not one that is mounted
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except ValueError as error:  # a NUL byte in the path
            raise OSError(errno.EINVAL, str(error)) from None
        except PermissionError as error:
            hint = f"{error.strerror} to write to it: add ro, or cow"
            if writes and os.access(path, os.R_OK):
                raise OSError(error.errno, hint) from None
            raise
        try:
            lock_image(fd, writes=writes)
            return cls(fd, path)
        except BaseException:
            os.close(fd)
            raise

    def share(self) -> "DiskFile":
        """Another one, which stays open when this is closed."""
        return DiskFile(os.dup(self.fd), self.path)

    def size(self) -> int:
        """Bytes that it has now. Raises OSError."""
        if not self.is_device:
            return os.fstat(self.fd).st_size
        data = fcntl.ioctl(self.fd, _BLKGETSIZE64, bytes(8))
        size: int = unpack("=Q", data)[0]
        return size

    def stamp(self) -> Stamp:
        """Raises OSError."""
        mtime_ns = 0 if self.is_device else os.fstat(self.fd).st_mtime_ns
        return Stamp(self.size(), mtime_ns)

    def starts_with(self, magic: bytes) -> bool:
        """Raises OSError."""
        return os.pread(self.fd, len(magic), 0) == magic

    def _ask(self, request: int) -> int:
        value: int = unpack("=I", fcntl.ioctl(self.fd, request, bytes(4)))[0]
        return value

    def close(self) -> None:
        """Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            self.close()


def checked_size(file: DiskFile) -> int:
    """Raises OSError if that can't be a disk's."""
    size = file.size()
    if not size:
        raise OSError(errno.EINVAL, "is empty: a disk has a sector at least")
    if size % _SECTOR:
        raise OSError(
            errno.EINVAL,
            f"has {size} bytes, not a multiple of {_SECTOR}: truncate -s %{_SECTOR} "
            "makes it one",
        )
    return size
