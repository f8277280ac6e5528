"""The one place where foreign functions are called; every other file is ordinary."""

import ctypes
import errno
import mmap
import os
import signal
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p
from typing import Final

from ..errors import KvmError
from . import abi

_libc: Final = ctypes.CDLL(None, use_errno=True)
# Unlike fcntl.ioctl, whose integer argument ends at 2**31-1, this takes all of
# a 64-bit address; it takes a struct by reference just as well.
_ioctl = _libc.ioctl
_ioctl.argtypes = (c_int, c_ulong, c_void_p)

Argument = int | ctypes.Structure | ctypes.c_uint64 | ctypes.Array[ctypes.c_char]


def ioctl(fd: int, request: int, argument: Argument = 0) -> int:
    """Issue a KVM ioctl and return its result, retrying EINTR.

    Raises KvmError with errno and the ioctl's name.
    """
    passed = argument if isinstance(argument, int) else ctypes.byref(argument)
    while True:
        result: int = _ioctl(fd, request, passed)
        if result >= 0:
            return result
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise KvmError(code, f"{_name_of(request)} failed: {os.strerror(code)}")


def _name_of(request: int) -> str:
    for name, value in vars(abi).items():
        if value == request and name.startswith("KVM_"):
            return name
    return f"ioctl {request:#x}"


def run_ioctl(fd: int, request: int, argument: int) -> None:
    """KVM_RUN where fcntl.ioctl would retry EINTR itself: CPython 3.14 and later.

    Raises OSError, InterruptedError for EINTR.
    """
    if _ioctl(fd, request, argument) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


_libc.mmap.argtypes = (c_void_p, c_size_t, c_int, c_int, c_int, c_long)
_libc.mmap.restype = c_void_p
_MAP_FAILED: Final = c_void_p(-1).value
MAP_FIXED: Final = 0x10  # <asm-generic/mman-common.h>; not in Python's mmap


def map_over(address: int, size: int, flags: int, fd: int = -1) -> None:
    """Map `fd` from its start, or what `flags` say, for reading and writing, in the
    place of what is mapped there. Raises OSError.

    mmap.mmap chooses the address itself.
    """
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    got = _libc.mmap(address, size, protection, flags | MAP_FIXED, fd, 0)
    if got == _MAP_FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


_libc.madvise.argtypes = (c_void_p, c_size_t, c_int)
_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14


def give_back(address: int, size: int) -> None:
    """Have the pages of an anonymous mapping read as zero, and their memory be free.

    mmap.madvise would keep Python's lock.
    """
    _libc.madvise(address, size, mmap.MADV_DONTNEED)


def give_back_shared(address: int, size: int) -> None:
    """Likewise, of a shared mapping of a memfd's, whoever else has mapped it."""
    _libc.madvise(address, size, mmap.MADV_REMOVE)


def populate(address: int, size: int) -> None:
    """Give pages of a private mapping their own memory, if that can be.

    mmap.madvise would keep Python's lock.
    """
    _libc.madvise(address, size, _MADV_POPULATE_WRITE)


_libc.memcmp.argtypes = (c_void_p, c_void_p, c_size_t)


def is_zero(address: int, size: int) -> bool:
    """Whether so many bytes, one at least, are zero: the first, and all as the next."""
    first = ctypes.c_ubyte.from_address(address).value
    return not first and not _libc.memcmp(address, address + 1, size - 1)


_libc.renameat2.argtypes = (c_int, c_char_p, c_int, c_char_p, c_uint)
_RENAME_EXCHANGE: Final = 2  # <linux/fs.h>


def exchange(folder: int, one: str, other: str) -> None:
    """Exchange what two names in a folder stand for, in one step. Raises OSError."""
    names = os.fsencode(one), os.fsencode(other)
    if _libc.renameat2(folder, names[0], folder, names[1], _RENAME_EXCHANGE) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


_libc.fallocate.argtypes = (c_int, c_int, c_long, c_long)
FALLOC_FL_PUNCH_HOLE: Final = 0x02 | 0x01  # <linux/falloc.h>; with KEEP_SIZE
FALLOC_FL_ZERO_RANGE: Final = 0x10 | 0x01


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    """Change how a part of a file is allocated. Raises OSError."""
    while _libc.fallocate(fd, mode, offset, size) < 0:
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


def address_of(buffer: ctypes.Array[ctypes.c_char]) -> int:
    """The host virtual address at which `buffer` starts."""
    return ctypes.addressof(buffer)


class _sigaction(ctypes.Structure):
    """glibc's struct sigaction (x86-64)."""

    _fields_ = [
        ("sa_handler", c_void_p),
        ("sa_mask", ctypes.c_uint8 * 128),
        ("sa_flags", c_int),
        ("sa_restorer", c_void_p),
    ]


_libc.pthread_sigmask.argtypes = (c_int, c_char_p, c_char_p)
_SIGSET_SIZE: Final = 128


def swap_signal_mask(how: int, signals: int) -> int:
    """As signal.pthread_sigmask; of masks, bit n - 1 is signal n.

    Python's makes an enum of each signal twice, 64 of them: a tenth of a clone's start.
    """
    before = ctypes.create_string_buffer(_SIGSET_SIZE)
    _libc.pthread_sigmask(how, signals.to_bytes(_SIGSET_SIZE, "little"), before)
    return int.from_bytes(before.raw, "little")


KICK_SIGNAL: Final = int(signal.SIGRTMIN)
_SIG_DFL: Final = 0
_SIG_IGN: Final = 1


def install_kick_handler() -> None:
    """Make KICK_SIGNAL interrupt a system call and do nothing else.

    `signal.signal` works in the main thread only, while machines may be run
    from any, so this goes to libc. The handler is a C function, since it runs
    in a thread that doesn't hold the GIL: getpid ignores its argument and is
    async-signal-safe. A handler that somebody else installed serves as well.
    """
    current = _sigaction()
    if _libc.sigaction(KICK_SIGNAL, None, ctypes.byref(current)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"sigaction: {os.strerror(code)}")
    if (current.sa_handler or _SIG_DFL) not in (_SIG_DFL, _SIG_IGN):
        return
    handler = ctypes.cast(_libc.getpid, c_void_p)
    action = _sigaction(sa_handler=handler.value)  # no SA_RESTART: EINTR is the point
    if _libc.sigaction(KICK_SIGNAL, ctypes.byref(action), None) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"sigaction: {os.strerror(code)}")
