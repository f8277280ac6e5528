"""Host files for the initramfs: what `--add HOST[:GUEST]` names, as cpio entries."""

import os
import stat
from collections.abc import Callable
from typing import Final, NoReturn

from . import cpio
from .boot.layout import MIB
from .errors import ConfigError

_KINDS: Final = {
    stat.S_IFCHR: "a device node",
    stat.S_IFBLK: "a device node",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


def split_spec(spec: str) -> tuple[str, str]:
    """HOST and GUEST of "HOST[:GUEST]"; GUEST begins with "/", or the colon is HOST's.

    Without GUEST it is HOST's name in the root.
    """
    host, colon, guest = spec.rpartition(":")
    if colon and host and guest.startswith("/"):
        return host, guest
    return spec, f"/{os.path.basename(os.path.realpath(spec))}"


class GuestFiles:
    """Collects entries, parents first, up to `limit` bytes: the guest's memory.

    A file that is named is read, through symlinks; in a directory that is named,
    symlinks stay what they are. Permissions are kept; the owner is root. All errors
    are ConfigErrors that name the host's file.
    """

    def __init__(self, limit: int) -> None:
        self._room = limit
        self._limit = limit
        self._entries: list[cpio.Entry] = []
        self._parents: set[str] = set()

    @property
    def entries(self) -> list[cpio.Entry]:
        """All that was added, in order."""
        return self._entries

    def add(self, host: str, guest: str) -> None:
        """Add a file, or a directory with all that is in it.

        A file whose `guest` ends in "/" goes into that directory.
        """
        try:
            status = os.stat(host)
        except (OSError, ValueError) as error:
            _refuse(host, error)
        path = "/".join(part for part in guest.split("/") if part not in ("", "."))
        if stat.S_ISDIR(status.st_mode):
            self._add_parents(f"{path}/x" if path else "x")
            self._add_directory(host, path, ())
            return
        if guest.endswith("/"):
            path = f"{path}/{os.path.basename(host)}".lstrip("/")
        self._add_parents(path)
        self._add_file(host, path, status)

    def _add_parents(self, path: str) -> None:
        names = path.split("/")[:-1]
        for depth in range(1, len(names) + 1):
            above = "/".join(names[:depth])
            if above not in self._parents:
                self._parents.add(above)
                mode = 0o1777 if above == "tmp" else 0o755
                self._append(above, _made(above, cpio.parent, above, mode))

    def _add_directory(
        self, host: str, path: str, above: tuple[tuple[int, int], ...]
    ) -> None:
        """Add what is in `host`. A mount can put a directory into itself."""
        try:
            status = os.stat(host)
            names = sorted(os.listdir(host))
        except OSError as error:
            _refuse(host, error)
        identity = status.st_dev, status.st_ino
        if identity in above:
            raise ConfigError(f"add: {host!r} is a directory that is inside itself")
        for name in names:
            inner, target = os.path.join(host, name), f"{path}/{name}".lstrip("/")
            try:
                mode = os.lstat(inner)
                link = os.readlink(inner) if stat.S_ISLNK(mode.st_mode) else None
            except OSError as error:
                _refuse(inner, error)
            if link is not None:
                self._append(inner, _made(inner, cpio.symlink, target, link))
            elif stat.S_ISDIR(mode.st_mode):
                bits = stat.S_IMODE(mode.st_mode)
                self._append(inner, _made(inner, cpio.parent, target, bits))
                self._add_directory(inner, target, (*above, identity))
            else:
                self._add_file(inner, target, mode)

    def _add_file(self, host: str, path: str, status: os.stat_result) -> None:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is not None:
            raise ConfigError(f"add: {host!r} is {kind}, not a file or a directory")
        if status.st_size > self._room:
            self._refuse_size(host)
        try:
            with open(host, "rb") as source:
                data = source.read(self._room + 1)  # it may have grown
        except OSError as error:
            _refuse(host, error)
        bits = stat.S_IMODE(status.st_mode)
        self._append(host, _made(host, cpio.file, path, data, bits))

    def _append(self, host: str, entry: cpio.Entry) -> None:
        self._room -= len(entry.data)
        if self._room < 0:
            self._refuse_size(host)
        self._entries.append(entry)

    def _refuse_size(self, host: str) -> NoReturn:
        raise ConfigError(
            f"add: {host!r} and what was added before it don't fit memory of "
            f"{self._limit // MIB}M: pass --memory with more"
        )


def _made(host: str, make: Callable[..., cpio.Entry], *values: object) -> cpio.Entry:
    """An entry. Raises ConfigError if the kernel would not take it."""
    try:
        return make(*values)
    except ValueError as error:
        raise ConfigError(f"add: {host!r}: {error}") from None


def _refuse(host: str, error: OSError | ValueError) -> NoReturn:
    why = error.strerror if isinstance(error, OSError) else str(error)
    raise ConfigError(f"add: {host!r}: {str(why).lower()}") from None
