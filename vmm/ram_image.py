"""RamImage: a guest's RAM as it was at one moment, which any number may go on from."""

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Self

from .errors import VmmError
from .hot_pages import HotPages
from .kvm._libc import is_zero
from .page_runs import Run, extents, has_data, own_pages, without

_CHUNK: Final = 1 << 20
_PIECE: Final = 32 << 10

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
        self.hot = HotPages(size)
        """Those that most of the machines write to that go on from it."""
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)

    @classmethod
    def of(
        cls,
        view: memoryview,
        address: int,
        base: "RamImage | None",
        zeroed: Iterable[Run] = (),
    ) -> Self:
        """A copy of RAM at `address`, a private mapping of `base` or of nothing.

        Not of `base` where it is `zeroed`, which are runs of bytes in order.
        Raises VmmError where there is no memory for it.
        """

        def fill(fd: int) -> None:
            own = list(own_pages(address, len(view)))
            for start, end in _nonzero(address, own):
                _write(fd, view[start:end], start)
            if base is not None:
                for start, end in without(without(base.extents(), own), zeroed):
                    base.copy_to(fd, start, end)

        try:
            return cls.made(len(view), fill)
        except OSError as error:
            raise no_memory(len(view), error) from None

    @classmethod
    def load(cls, file: int, size: int) -> Self:
        """A copy of a file, which may change later. Raises OSError, VmmError.

        Not having the memory, the host would kill somebody rather than say so.
        """
        needed, left = os.fstat(file).st_blocks * 512, available_memory()
        if needed > left:
            raise VmmError(
                f"the host has {left >> 20} MiB of memory left, and a guest's RAM "
                f"takes {needed >> 20}"
            )

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
        """Write it to an empty file, with its holes. Raises OSError."""
        os.truncate(file, self.size)
        for start, end in self.extents():
            self.copy_to(file, start, end)

    def extents(self) -> Iterator[Run]:
        """Start and end of each run that isn't a hole, in bytes."""
        return extents(self.fd, self.size)

    def has_data(self, start: int, end: int) -> bool:
        """Whether [start, end) is anything but a hole."""
        return has_data(self.fd, start, end)

    def copy_to(self, fd: int, start: int, end: int) -> None:
        """Write [start, end) to the same place of another file."""
        # By a mapping, a sixth quicker than by sendfile. Private: before Linux 6.7 a
        # file that is sealed can't be mapped shared, be it for reading alone.
        part = mmap.mmap(
            self.fd, end - start, mmap.MAP_PRIVATE, mmap.PROT_READ, offset=start
        )
        with part, memoryview(part) as data:
            _write(fd, data, start)

    def allocated(self) -> int:
        """Bytes of memory that it takes."""
        return os.fstat(self.fd).st_blocks * 512

    def __del__(self) -> None:
        os.close(self.fd)


def no_memory(size: int, error: OSError) -> VmmError:
    """What to raise when the host hasn't got it."""
    return VmmError(
        f"the host has no memory for a copy of {size >> 20} MiB of guest RAM: "
        f"{error.strerror}"
    )


def available_memory() -> int:
    """Bytes that the host can still give, by proc_meminfo(5)."""
    with open("/proc/meminfo", "rb", buffering=0) as file:
        _, _, rest = file.read(4096).partition(b"MemAvailable:")
    return int(rest.split()[0]) << 10


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


def _nonzero(address: int, runs: Iterable[Run]) -> Iterator[Run]:
    """What of these runs has anything in it, as far as it is quick to tell.

    A huge page of which the guest has used a part has zeros in the rest.
    """
    for start, end in runs:
        for at in range(start, end, _PIECE):
            size = min(_PIECE, end - at)
            if not is_zero(address + at, size):
                yield at, at + size


def _copy(source: int, target: int, start: int, end: int) -> None:
    """[start, end) of a file that may change: a mapping of it could end in SIGBUS."""
    os.lseek(target, start, os.SEEK_SET)
    while start < end:
        count = os.sendfile(target, source, start, end - start)
        if not count:
            raise OSError(errno.EIO, "it has become shorter")
        start += count


def _write(fd: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done : done + _CHUNK], offset + done)
