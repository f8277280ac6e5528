"""The file of a unix socket: made for its user alone, removed while it is ours.

What lies at a path can be replaced by anybody who may write in its folder. So a file is
ours by device and inode, noted when it was made; an open socket keeps its inode from
being used again.
"""

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ..errors import ConfigError

PRIVATE: Final = 0o600  # who may connect has the guest's console

# Path, device and inode of each that this process has: plain, for a Guardian's pipe.
# Inode 0 is one that is just being made.
Identity = tuple[str, int, int]

_lock: Final = threading.Lock()  # guards the next two
_ours: Final[list[Identity]] = []
_told: Final[list[Callable[[list[Identity]], None]]] = []


@contextmanager
def reported_to(tell: Callable[[list[Identity]], None]) -> Iterator[None]:
    """Tell somebody all that this process has, whenever it is one more or one less."""
    with _lock:
        _told.append(tell)
    try:
        yield
    finally:
        with _lock:
            _told.remove(tell)


def remove(files: list[Identity]) -> None:
    """Remove those that are still what they were."""
    for path, device, inode in files:
        with suppress(OSError):  # it is gone, or its folder
            status = os.lstat(path)
            is_same = (status.st_dev, status.st_ino) == (device, inode)
            if is_same or (inode == 0 and _is_stale(path)):
                os.unlink(path)


class ListeningSocket:
    """A unix socket that listens at `path`, in place of one that nobody serves.

    `mode` is that of its file: who may connect; `kind` SOCK_STREAM, or another that
    listens. Raises ConfigError, naming `field`, if the path is taken by something else,
    or too long.
    """

    def __init__(
        self,
        path: str,
        mode: int = PRIVATE,
        field: str = "serial",
        kind: int = socket.SOCK_STREAM,
    ) -> None:
        self.socket = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK)
        self._file: Identity | None = None
        try:
            self._make(path, mode, field)
        except OSError as error:
            self.close()
            problem = error.strerror or str(error)
            raise ConfigError(f"{field}: unix socket {path!r}: {problem}") from None
        except BaseException:
            self.close()
            raise

    def _make(self, path: str, mode: int, field: str) -> None:
        _make_room(path, field)
        # What the file will have from its first moment on; the umask takes from it.
        os.fchmod(self.socket.fileno(), mode)
        where = os.path.abspath(path)
        self._know((where, 0, 0))
        self.socket.bind(path)
        self.socket.listen()  # at once: until then it looks like a stale one
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            self._know((where, status.st_dev, status.st_ino))
            if stat.S_IMODE(status.st_mode) != mode:  # more than the umask leaves
                os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)

    def _know(self, file: Identity | None) -> None:
        with _lock:
            if self._file is not None:
                _ours.remove(self._file)
            if file is not None:
                _ours.append(file)
            self._file = file
            for tell in _told:
                tell(_ours)

    def close(self) -> None:
        """Stop listening, and remove the file if it is still ours. Idempotent."""
        if self._file is None:
            self.socket.close()
            return
        is_known = self._file[2] != 0
        is_bound = bool(self.socket.getsockname())
        if is_known:
            remove([self._file])  # before the inode is free for others
        self.socket.close()
        if is_bound and not is_known:  # something failed after bind
            remove([self._file])
        self._know(None)


def _make_room(path: str, field: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"{field}: {path!r} exists and is not a socket")
    except FileNotFoundError:
        return
    if not _is_stale(path):
        raise ConfigError(f"{field}: unix socket {path!r} is served by another")
    os.unlink(path)


def _is_stale(path: str) -> bool:
    """Whether it is a socket that nobody serves. Raises OSError if one can't ask."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # somebody's queue may be full
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return stat.S_ISSOCK(os.lstat(path).st_mode)  # as for what is no socket
        except BlockingIOError:
            pass
        return False
