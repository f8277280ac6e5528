"""`--result FILE.json` and `--profile FILE`: written as a whole or not at all.

Names are looked up by the kernel alone, as for `> FILE`: whether another user's
symlink may be followed is its to say (fs.protected_symlinks in proc(5)).
"""

import errno
import fcntl
import json
import os
import select
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ConfigError, VmmError
from ..result import RunResult


def check_result_path(path: str, option: str = "result") -> None:
    """Raises ConfigError now where `write_whole` would fail after the run."""
    folder = os.path.dirname(path) or "."
    if not os.path.basename(path):
        raise ConfigError(f"{option}: {path!r} names no file")
    if os.path.isdir(path):
        raise ConfigError(f"{option}: {path!r} is a directory")
    if not os.path.isdir(folder):
        raise ConfigError(f"{option}: there is no directory {folder!r}")
    try:
        if _descriptor(path) is not None:
            return
        if _is_replaced(path):
            with _folder(path) as folder_fd:
                scratch, fd = _scratch(folder_fd)
                os.close(fd)
                os.unlink(scratch, dir_fd=folder_fd)
        elif _is_regular(path):
            os.close(_open(path))
    except OSError as error:
        raise ConfigError(
            f"{option}: {path!r} can't be written: {error.strerror}"
        ) from None


def write_result(path: str, result: RunResult) -> None:
    """Put `result` in place of what `path` was. Raises VmmError."""
    write_whole(path, json.dumps(result.to_dict(), indent=2) + "\n", "result")


def write_whole(path: str, text: str, option: str) -> None:
    """Put `text` in place of what `path` was, for `--option`. Raises VmmError.

    Devices, FIFOs and what is open here already (/dev/stdout, or its file) are
    written to, so that nothing is lost that others have written; and so are files
    behind a symlink.
    """
    data = text.encode()
    try:
        descriptor = _descriptor(path)
        if descriptor is not None:
            _write_all(descriptor, data)
        elif _is_replaced(path):
            _replace(path, data)
        else:
            fd = _open(path)
            try:
                if stat.S_ISREG(os.fstat(fd).st_mode):
                    os.ftruncate(fd, 0)
                _write_all(fd, data)
            finally:
                os.close(fd)
    except OSError as error:
        raise VmmError(f"{option}: {path!r}: {error.strerror}") from None


def _descriptor(path: str) -> int | None:
    """One of ours that is open for writing to what is at `path`."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return None
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        try:
            same = os.path.samestat(os.fstat(fd), there)
            if same and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:
                return fd
        except OSError:  # the one that listed them
            continue
    return None


def _is_replaced(path: str) -> bool:
    """Whether a new file takes the place: of none, or of a regular one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


def _is_regular(path: str) -> bool:
    """Whether a regular file is written to, behind a link: one that isn't there yet,
    too."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True


def _open(path: str) -> int:
    """Open what is at `path` for writing, and make it where a link names nothing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:  # instead of to wait for one
            raise OSError(errno.ENXIO, "nobody reads from it") from None
        raise
    os.set_blocking(fd, True)
    return fd


def _replace(path: str, data: bytes) -> None:
    name = os.path.basename(path)
    with _folder(path) as folder:
        scratch, fd = _scratch(folder)
        try:
            try:
                _keep_mode(fd, name, folder)
                _write_all(fd, data)
            finally:
                os.close(fd)
            os.replace(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(scratch, dir_fd=folder)
            raise


@contextmanager
def _folder(path: str) -> Iterator[int]:
    """The directory that a file is in: the same one, whatever its name becomes."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(os.path.dirname(path) or ".", flags)
    try:
        yield fd
    finally:
        os.close(fd)


def _scratch(folder: int) -> tuple[str, int]:
    """A new file in a directory: its name and a descriptor."""
    name = f".vmm-{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return name, os.open(name, flags, 0o666, dir_fd=folder)


def _keep_mode(fd: int, name: str, folder: int) -> None:
    """Give a file the mode of the one that it replaces, if that is the user's own."""
    try:
        old = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if old.st_uid == os.geteuid():
        os.fchmod(fd, old.st_mode & 0o777)


def _write_all(fd: int, data: bytes) -> None:
    """Wait for the reader where there is one. Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # somebody else's choice, for a stream that we share
            poller = select.poll()
            poller.register(fd, select.POLLOUT)
            poller.poll()
