"""Store: snapshots of booted guests in a folder that processes and sessions share."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from vmm.machine.snapshot import Snapshot

PATIENCE_S: Final = 1.0  # until a line says what is waited for
_POLL_S: Final = 0.05
_LOCK: Final = ".lock"


class Entry:
    """One snapshot's place, while nobody else is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._snapshot = folder / "snapshot"

    def load(self) -> Snapshot | None:
        """What is there; None if nothing is. Raises VmmError, OSError."""
        if not self._snapshot.exists():
            return None
        os.utime(self.folder)  # who was used last goes last
        return Snapshot.load(self._snapshot)

    def save(self, snapshot: Snapshot) -> None:
        """Keep it. Raises VmmError, OSError."""
        self.remove()
        self.folder.mkdir(mode=0o700)
        snapshot.save(self._snapshot)

    def remove(self) -> None:
        """Empty it, leftovers of one that was killed as well."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def size(self) -> int:
        """Bytes that it takes on the disk."""
        sizes = 0
        for folder, _, names in os.walk(self.folder):  # it may be removed meanwhile
            for name in names:
                with suppress(OSError):
                    sizes += os.lstat(os.path.join(folder, name)).st_blocks * 512
        return sizes


class Store:
    """A folder KEY for each, and beside it KEY.lock, which whoever is in it holds.

    The kernel lets go of the lock of one that dies. `limit` is in bytes.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self._limit = limit

    @contextmanager
    def entry(
        self, key: str, timeout: float, on_wait: Callable[[], None]
    ) -> Iterator[Entry]:
        """The entry, when nobody else is in it any more; `on_wait` if that takes long.

        Raises TimeoutError after `timeout` seconds, OSError.
        """
        start = time.monotonic()
        lock = None
        while lock is None:
            lock = self._lock(key)
            waited = time.monotonic() - start
            if lock is None:
                if waited > timeout:
                    raise TimeoutError(
                        f"another process boots this guest for {timeout:g} s already"
                    )
                if waited > PATIENCE_S:
                    on_wait()
                    on_wait = _nothing
                time.sleep(_POLL_S)
        entry = Entry(self.folder / key)
        try:
            yield entry
        finally:
            with suppress(OSError):
                if not entry.folder.exists():  # nor is its lock, else one would stay
                    self._lock_path(key).unlink()
            os.close(lock)

    def shrink(self) -> None:
        """Remove what was used longest ago until the rest is within the limit.

        Who is in use stays. Raises OSError.
        """
        ages = {}
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # somebody else removes it
                if path.is_dir():
                    ages[path] = path.stat().st_mtime_ns
        left = {path: Entry(path).size() for path in ages}
        for path in sorted(ages, key=ages.__getitem__):
            if sum(left.values()) <= self._limit:
                return
            if self._remove(path.name):
                del left[path]

    def _remove(self, key: str) -> bool:
        lock = self._lock(key)
        if lock is None:
            return False
        try:
            Entry(self.folder / key).remove()
            self._lock_path(key).unlink()
        finally:
            os.close(lock)
        return True

    def _lock(self, key: str) -> int | None:
        """A descriptor that holds the lock; None if somebody else does."""
        path = self._lock_path(key)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == path.stat().st_ino:  # else it was removed
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def _lock_path(self, key: str) -> Path:
        return self.folder / f"{key}{_LOCK}"


def _nothing() -> None:
    pass
