"""A snapshot on disk: a folder with `state.json` and `memory`, or `memory.zst`.

What the guest has written to its disks is in `disk0`, `disk1` and so on, overlays of
their images, which are left where they are; `seed` is the disk with cloud-init's.

`memory` is RAM as it is, with holes; `memory.zst` the same, compressed, and with a
check sum: looking through `memory` for one would take as long as to load it.

Folders are named relative to the one that they are in, which is opened once.
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Final

from ..boot.layout import ram_ranges
from ..devices.errors import InvalidState
from ..errors import ConfigError, ImageError, VmmError
from ..field_types import StrPath
from ..host.identity import HostIdentity
from ..kvm._libc import exchange
from ..ram_image import RamImage
from .snapshot_form import SIZE_MAX, START, Contents, from_text, to_text

if TYPE_CHECKING:
    from ..disk.overlay import FrozenDisk

STATE: Final = "state.json"
MEMORY: Final = "memory"
COMPRESSED: Final = "memory.zst"
_DISK: Final = "disk{}"
SEED: Final = "seed"
_SEED_MAX: Final = 64 << 20  # twice what its files may have
_IS_FILE: Final = re.compile(
    rf"{MEMORY}|{re.escape(COMPRESSED)}|{STATE}|{SEED}|disk\d+"
)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SHOWN: Final = 300  # characters of what is wrong, which may be as long as the file
_TRIES: Final = 10  # against others who save there at the same time


# Save


def save(
    path: StrPath,
    contents: Contents,
    ram: RamImage,
    disks: "Sequence[FrozenDisk]" = (),
    *,
    compress: bool,
) -> None:
    """As Snapshot.save."""
    zstd = _zstd() if compress else None
    text = to_text(contents, HostIdentity.here())
    try:
        with _replacing(path) as folder:
            with _create(folder, STATE) as file:
                file.write(text)
            with _create(folder, COMPRESSED if compress else MEMORY) as file:
                if zstd is None:
                    ram.save(file.fileno())
                else:
                    zstd.compress(ram, file)
            if contents.config.seed:
                *disks, seed = disks
                with _create(folder, SEED) as file:
                    file.write(os.pread(seed.base.fd, seed.size, 0))
            for index, disk in enumerate(disks):
                with _create(folder, _DISK.format(index)) as file:
                    disk.save(file.fileno())
    except OSError as error:
        if isinstance(error, VmmError):
            raise
        raise VmmError(
            f"snapshot {os.fspath(path)!r} can't be saved: {error.strerror}"
        ) from None


def check_save_path(path: StrPath) -> None:
    """Raises ConfigError now where `save` would refuse to replace what is there."""
    try:
        with _parent(path) as (parent, name):
            _check_replaceable(parent, name, path)
            if not os.access(".", os.W_OK | os.X_OK, dir_fd=parent):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(f"save: {os.fspath(path)!r}: {error.strerror}") from None


@contextmanager
def _create(folder: int, name: str) -> "Iterator[IO[bytes]]":
    """A new file, the user's only; it is on the disk at the end."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    with open(fd, "wb") as file:
        yield file
        file.flush()
        os.fsync(fd)


@contextmanager
def _parent(path: StrPath) -> Iterator[tuple[int, str]]:
    """The folder that a folder is in, or is to be in, and its name there."""
    where, name = os.path.split(os.path.realpath(path))
    if not name or not os.fspath(path):
        raise ConfigError(f"save: {os.fspath(path)!r} names no folder for a snapshot")
    fd = os.open(where, _FOLDER)
    try:
        yield fd, name
    finally:
        os.close(fd)


@contextmanager
def _replacing(path: StrPath) -> Iterator[int]:
    """A new folder to be filled, which then takes the place of `path`, all at once.

    Nothing is left of it after an error; what somebody has left who was killed is
    removed. Raises OSError, ConfigError.
    """
    with _parent(path) as (parent, name), ExitStack() as stack:
        _check_replaceable(parent, name, path)
        prefix = f".{name}.vmm-save-"
        _remove_leftovers(parent, prefix)
        scratch, folder = _new_folder(parent, prefix, stack)
        yield folder
        os.fsync(folder)
        _put_in_place(parent, scratch, name)
        os.fsync(parent)  # before what was there is removed, by the stack


def _check_replaceable(parent: int, name: str, path: StrPath) -> None:
    """Raises ConfigError unless nothing is there, an empty folder, or a snapshot."""
    with suppress(FileNotFoundError):
        if not _is_replaceable(parent, name):
            raise ConfigError(
                f"save: {os.fspath(path)!r} is there, is no snapshot, and isn't "
                "replaced by one"
            )


def _is_replaceable(parent: int, name: str) -> bool:
    """Raises FileNotFoundError if there is nothing."""
    while True:
        try:
            folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
        except NotADirectoryError:
            return False
        try:
            found = set(os.listdir(folder))
            is_ours = all(map(_IS_FILE.fullmatch, found))
            if is_ours and (not found or _has_state(folder)):
                return True
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if os.path.samestat(os.fstat(folder), there):
                return False
        finally:
            os.close(folder)
        # Another has replaced it, and removes what we have looked at.


def _has_state(folder: int) -> bool:
    try:
        with _open_file(folder, STATE) as file:
            return file.read(len(START)) == START
    except (OSError, ImageError):
        return False


def _new_folder(parent: int, prefix: str, stack: ExitStack) -> tuple[str, int]:
    """One that is locked while we live; `stack` removes what has its name then."""
    while True:
        scratch = prefix + os.urandom(8).hex()
        stack.callback(_remove, parent, scratch)
        os.mkdir(scratch, 0o700, dir_fd=parent)
        with suppress(FileNotFoundError):
            folder = os.open(scratch, _FOLDER, dir_fd=parent)
            stack.callback(os.close, folder)
            if _lock(folder) and os.fstat(folder).st_nlink:
                return scratch, folder
        # Somebody has taken it for a leftover, between two lines of ours.


def _lock(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_leftovers(parent: int, prefix: str) -> None:
    for name in os.listdir(parent):
        if not name.startswith(prefix):
            continue
        with suppress(OSError):  # somebody else removes it
            folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
            try:
                if _lock(folder):
                    _remove(parent, name)
            finally:
                os.close(folder)


def _put_in_place(parent: int, scratch: str, name: str) -> None:
    """What was there has the name of `scratch` then, if there was something."""
    try:
        os.rename(scratch, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        try:
            exchange(parent, scratch, name)
        except OSError as refusal:
            if refusal.errno not in (errno.EINVAL, errno.ENOSYS):
                raise
            # A file system that can't: for a moment there is none.
            aside = f"{scratch}-old"
            os.rename(name, aside, src_dir_fd=parent, dst_dir_fd=parent)
            os.rename(scratch, name, src_dir_fd=parent, dst_dir_fd=parent)
            os.rename(aside, scratch, src_dir_fd=parent, dst_dir_fd=parent)


def _remove(parent: int, name: str) -> None:
    """Remove a snapshot, or what there is of one."""
    try:
        folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        return
    try:
        for file in filter(_IS_FILE.fullmatch, os.listdir(folder)):
            with suppress(FileNotFoundError):
                os.unlink(file, dir_fd=folder)
    finally:
        os.close(folder)
    with suppress(FileNotFoundError):
        os.rmdir(name, dir_fd=parent)


# Load


def load(path: StrPath) -> "tuple[Contents, RamImage, list[FrozenDisk]]":
    """As Snapshot.load."""
    try:
        with _opened(path) as (folder, state, memory, is_compressed):
            contents = from_text(_read_state(state), HostIdentity.here())
            disks = _disks(folder, contents)
            size = sum(part.size for part in ram_ranges(contents.config.memory))
            if is_compressed:
                return contents, _zstd().decompress(memory, size), disks
            if os.fstat(memory.fileno()).st_size != size:
                raise ImageError(f"{MEMORY} hasn't got the {size} bytes of its RAM")
            return contents, RamImage.load(memory.fileno(), size), disks
    except (ConfigError, InvalidState) as error:
        shown = str(error)[:_SHOWN]
        raise ImageError(f"snapshot {os.fspath(path)!r}: {shown}") from None
    except OSError as error:
        if isinstance(error, VmmError):
            raise
        reason = error.strerror or str(error)
        raise ImageError(f"snapshot {os.fspath(path)!r}: {reason}") from None


def _disks(folder: int, contents: Contents) -> "list[FrozenDisk]":
    found = [
        _disk(folder, _DISK.format(index), config.path)
        for index, config in enumerate(contents.config.disks)
    ]
    if contents.config.seed:
        found.append(_seed(folder))
    return found


def _seed(folder: int) -> "FrozenDisk":
    """In memory: the file isn't needed any more."""
    from ..disk.disk_file import DiskFile
    from ..disk.overlay import untouched

    with _open_file(folder, SEED) as file:
        data = file.read(_SEED_MAX + 1)
    if not 0 < len(data) <= _SEED_MAX or len(data) % 512:
        raise ImageError(f"{SEED} has {len(data)} bytes, as no such disk has")
    base = DiskFile(os.memfd_create(SEED, os.MFD_CLOEXEC), SEED)
    os.pwrite(base.fd, data, 0)
    return untouched(base)


def _disk(folder: int, name: str, path: str) -> "FrozenDisk":
    from ..disk.disk_file import DiskFile
    from ..disk.overlay import FrozenDisk

    try:
        base = DiskFile.open(path, writes=False)
        with _open_file(folder, name) as file:
            return FrozenDisk.load(base, file.fileno())
    except FileNotFoundError as error:
        raise ImageError(f"it has no {error.filename}") from None
    except OSError as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} of {path!r} {error.strerror}") from None


@contextmanager
def _opened(path: StrPath) -> "Iterator[tuple[int, IO[bytes], IO[bytes], bool]]":
    """It and its files, of one and the same save, though others may replace it."""
    with ExitStack() as stack:
        for left in reversed(range(_TRIES)):
            folder = os.open(path, _FOLDER)
            stack.callback(os.close, folder)
            try:
                state = stack.enter_context(_open_file(folder, STATE))
                try:
                    memory = stack.enter_context(_open_file(folder, MEMORY))
                    is_compressed = False
                except FileNotFoundError:
                    memory = stack.enter_context(_open_file(folder, COMPRESSED))
                    is_compressed = True
            except FileNotFoundError as error:
                if left and not os.path.samestat(os.stat(path), os.fstat(folder)):
                    continue
                raise ImageError(f"it has no {error.filename}") from None
            yield folder, state, memory, is_compressed
            return


@contextmanager
def _open_file(folder: int, name: str) -> "Iterator[IO[bytes]]":
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ImageError(f"its {name} is no file")
    with open(fd, "rb", buffering=0) as file:
        yield file


def _read_state(file: "IO[bytes]") -> bytes:
    text = file.read(SIZE_MAX + 1)
    if len(text) > SIZE_MAX:
        raise ImageError(f"its {STATE} has more than {SIZE_MAX >> 20} MiB")
    return text


def _zstd() -> Any:  # noqa: ANN401
    """Raises ConfigError where there is none."""
    try:
        from . import snapshot_zstd
    except ImportError:
        raise ConfigError(
            "a compressed snapshot needs zstd: pip install 'minivmm[zstd]'"
        ) from None
    return snapshot_zstd
