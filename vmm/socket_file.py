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

from .errors import ConfigError

PRIVATE: Final = 0o600  # who may connect has the guest's console

# Path, device and inode of each that this process has: plain, for a Guardian's pipe.
Identity = tuple[str, int, int]

_lock: Final = threading.Lock()  # guards the next two
_ours: Final[list[Identity]] = []
_told: Final[list[Callable[[list[Identity]], None]]] = []


@contextmanager
def reported_to(tell: Callable[[list[Identity]], None]) -> Iterator[None]:
    """Tell somebody all that this process has, whenever it is one more or one less."""
    _told.append(tell)
    try:
        yield
    finally:
        _told.remove(tell)


def _report() -> None:
    for tell in _told:
        tell(_ours)


def remove(files: list[Identity]) -> None:
    """Remove those that are still what they were."""
    for path, device, inode in files:
        with suppress(OSError):  # it is gone, or its folder
            status = os.lstat(path)
            if (status.st_dev, status.st_ino) == (device, inode):
                os.unlink(path)


class ListeningSocket:
    """A unix socket that listens at `path`, in place of one that nobody serves.

    `mode` is that of its file: who may connect. Raises ConfigError, naming `field`, if
    the path is taken by something else, or too long.
    """

    def __init__(self, path: str, mode: int = PRIVATE, field: str = "serial") -> None:
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        self.socket = socket.socket(socket.AF_UNIX, kind)
        try:
            _remove_stale(path, field)
            # What it will have from its first moment on; the umask takes from it.
            os.fchmod(self.socket.fileno(), mode)
            self.socket.bind(path)
            self.socket.listen()  # at once: until then it looks like a stale one
            self._note(os.path.abspath(path), mode)
        except OSError as error:
            self.close()
            problem = error.strerror or str(error)
            raise ConfigError(f"{field}: unix socket {path!r}: {problem}") from None
        except BaseException:
            self.close()
            raise

    _file: Identity | None = None

    def _note(self, path: str, mode: int) -> None:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            self._file = path, status.st_dev, status.st_ino
            with _lock:
                _ours.append(self._file)
                _report()
            if stat.S_IMODE(status.st_mode) != mode:  # more than the umask leaves
                os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Stop listening, and remove the file if it is still ours. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            remove([file])  # before the inode is free for others
            with _lock:
                _ours.remove(file)
                _report()
        self.socket.close()


def _remove_stale(path: str, field: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"{field}: {path!r} exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # somebody's queue may be full
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass
        raise ConfigError(f"{field}: unix socket {path!r} is served by another")
