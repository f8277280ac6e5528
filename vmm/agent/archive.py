"""Files and directories as a stream, both ways; guest/linux/agent/archive.h says how.

What a guest sends may be anything: a name is one component of a path and nothing else,
files are made anew and never followed, and all of it stays under another name until it
is whole.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator
from typing import IO, Final, NamedTuple

from ..errors import VmmError

_DIRECTORY: Final = b"d"
_FILE: Final = b"f"
_LINK: Final = b"l"
_UP: Final = b"u"
_FAULT: Final = b"x"
_RECORD: Final = struct.Struct("<cHIQQ")  # kind, name's length, mode, mtime, size
_PIECE: Final = struct.Struct("<QI")  # offset, size
_PIECE_MAX: Final = 64 << 10
_NAME_MAX: Final = 255
_PATH_MAX: Final = 4095
_DEPTH_MAX: Final = 64
_SIZE_MAX: Final = 1 << 62
_PLAIN_BITS: Final = 0o777  # a guest gives nobody here set-user-id
_MIDST: Final = "what the agent sent makes no sense"


class _Record(NamedTuple):
    kind: bytes
    mode: int
    mtime: int
    size: int
    name: bytes


# To the guest


def write_archive(local: str, write: Callable[[bytes], None]) -> None:
    """Send what `local` is: a file that is named is followed. Raises OSError."""
    _write_entry(local, os.path.basename(os.path.abspath(local)), write, os.stat(local))


def _write_entry(
    path: str, name: str, write: Callable[[bytes], None], status: os.stat_result
) -> None:
    if stat.S_ISDIR(status.st_mode):
        write(_record(_DIRECTORY, name, status))
        with os.scandir(path) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
        for entry in inside:
            inner = entry.stat(follow_symlinks=False)
            _write_entry(entry.path, entry.name, write, inner)
        write(_RECORD.pack(_UP, 0, 0, 0, 0))
    elif stat.S_ISREG(status.st_mode):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _write_file(fd, name, write)
        finally:
            os.close(fd)
    elif stat.S_ISLNK(status.st_mode):
        target = os.fsencode(os.readlink(path))
        write(_record(_LINK, name, status, len(target)) + target)
    else:
        raise OSError(errno.EINVAL, "neither file, directory nor link", path)


def _write_file(fd: int, name: str, write: Callable[[bytes], None]) -> None:
    status = os.fstat(fd)
    write(_record(_FILE, name, status))
    for start, end in _extents(fd, status.st_size):
        at = start
        while at < end:
            data = os.pread(fd, min(_PIECE_MAX, end - at), at)
            if not data:  # it has shrunk
                break
            if data.count(0) != len(data):
                write(_PIECE.pack(at, len(data)) + data)
            at += len(data)
    write(_PIECE.pack(0, 0))


def _extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where the file has data."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:
                yield end, size
            return
        yield start, end


def _record(
    kind: bytes, name: str, status: os.stat_result, size: int | None = None
) -> bytes:
    raw = os.fsencode(name)
    return (
        _RECORD.pack(
            kind,
            len(raw),
            status.st_mode,
            max(0, status.st_mtime_ns),
            status.st_size if size is None else size,
        )
        + raw
    )


# From the guest


class ArchiveReader:
    """Makes what a guest sends, beside where it is to be, then puts it there whole."""

    def __init__(self, stream: IO[bytes], remote: str) -> None:
        self._stream = stream
        self._remote = remote

    def extract(self, local: str) -> None:
        """Make `local` of it; in a directory that is there, by the name it has.

        A file there is replaced; a directory is not: there is to be none of that name.
        Raises OSError, the guest's or ours, and VmmError for what makes no sense.
        """
        top = self._record()
        if top.kind == _LINK:  # it was followed there, and isn't to be here
            raise self._nonsense("a link")
        if os.path.isdir(local):
            name = os.path.basename(self._remote.rstrip("/")) or "root"
            local = os.path.join(local, name)
        if top.kind == _DIRECTORY and os.path.lexists(local):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), local)
        import tempfile  # most users of a guest get no files

        folder = os.path.dirname(os.path.abspath(local))
        if not os.path.isdir(folder):  # not in the name of what we make there
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), local)
        work = tempfile.mkdtemp(prefix=".vmm-get-", dir=folder)
        try:
            fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._make(fd, top, b"whole", 0)
            finally:
                os.close(fd)
            if self._stream.read(1):
                raise self._nonsense("more than was asked for")
            os.rename(os.path.join(work, "whole"), local)
            if top.kind == _DIRECTORY:  # which only its owner's w lets us move
                _adopt(local, top)
        finally:
            _remove(work)

    def _make(self, folder: int, entry: _Record, name: bytes, depth: int) -> None:
        if depth > _DEPTH_MAX:
            raise self._nonsense("directories too deep")
        if entry.kind == _DIRECTORY:
            self._make_directory(folder, entry, name, depth)
        elif entry.kind == _FILE:
            self._make_file(folder, entry, name)
        elif entry.kind == _LINK:
            if not 0 < entry.size <= _PATH_MAX:
                raise self._nonsense("a link's target")
            target = self._exactly(entry.size)
            if b"\0" in target:
                raise self._nonsense("a link's target")
            os.symlink(target, name, dir_fd=folder)
        else:
            raise self._nonsense("a record")

    def _make_directory(
        self, folder: int, entry: _Record, name: bytes, depth: int
    ) -> None:
        os.mkdir(name, 0o700, dir_fd=folder)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=folder)
        try:
            while (inner := self._record()).kind != _UP:
                self._make(fd, inner, self._checked(inner.name), depth + 1)
            if depth:
                _adopt(fd, entry)
        finally:
            os.close(fd)

    def _make_file(self, folder: int, entry: _Record, name: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=folder)
        try:
            end = 0
            while True:
                offset, size = _PIECE.unpack(self._exactly(_PIECE.size))
                if not size:
                    break
                if size > _PIECE_MAX or offset < end or offset > _SIZE_MAX:
                    raise self._nonsense("a piece of a file")
                end = offset + size
                data = self._exactly(size)
                while data:
                    data = data[os.pwrite(fd, data, end - len(data)) :]
            os.ftruncate(fd, max(end, min(entry.size, _SIZE_MAX)))
            _adopt(fd, entry)
        finally:
            os.close(fd)

    def _record(self) -> _Record:
        kind, length, mode, mtime, size = _RECORD.unpack(self._exactly(_RECORD.size))
        if kind == _FAULT and 0 < mode < 4096:
            path = os.fsdecode(self._exactly(min(length, _PATH_MAX)))
            raise OSError(mode, os.strerror(mode), path)
        if length > _PATH_MAX:  # of the first it is the path that was asked for
            raise self._nonsense("a name")
        return _Record(kind, mode, mtime, size, self._exactly(length))

    def _checked(self, name: bytes) -> bytes:
        if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise self._nonsense(f"a name, {name[:_NAME_MAX]!r},")
        return name

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise self._nonsense("an end in the middle")
        return data

    def _nonsense(self, what: str) -> VmmError:
        return VmmError(f"get: {self._remote!r}: {_MIDST}: {what}")


def _adopt(file: int | str, entry: _Record) -> None:
    os.utime(file, ns=(entry.mtime % (1 << 62), entry.mtime % (1 << 62)))
    os.chmod(file, entry.mode & _PLAIN_BITS)


def _remove(folder: str) -> None:
    """Whatever permissions are in it."""
    import shutil

    for path, names, _ in os.walk(folder):
        for name in names:  # before it looks into them
            inner = os.path.join(path, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
    shutil.rmtree(folder)
