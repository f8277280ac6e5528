"""Host files for the initramfs: what `--add HOST[:GUEST]` names, as cpio entries."""

import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, NoReturn

from ..boot.layout import MIB
from ..errors import ConfigError
from ..input_file import read_up_to
from . import cpio

_HEADER_SIZE: Final = 112  # of a member; a tree of empty files takes room, too


class _Directory(NamedTuple):
    """One that is being added: who it is, and what of it is still to come."""

    identity: tuple[int, int]
    host: str
    path: str
    names: Iterator[str]


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
            self._add_tree(host, path)
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

    def _add_tree(self, host: str, path: str) -> None:
        """Add what is in `host`, however deep."""
        above = [self._listed(host, path)]
        while above:
            directory = above[-1]
            name = next(directory.names, None)
            if name is None:
                above.pop()
                continue
            inner = os.path.join(directory.host, name)
            target = f"{directory.path}/{name}".lstrip("/")
            if self._add_member(inner, target):
                entered = self._listed(inner, target)
                # A mount can put a directory into itself.
                if any(entered.identity == other.identity for other in above):
                    raise ConfigError(
                        f"files: {inner!r} is a directory that is inside itself"
                    )
                above.append(entered)

    @staticmethod
    def _listed(host: str, path: str) -> _Directory:
        try:
            status = os.stat(host)
            names = sorted(os.listdir(host))
        except OSError as error:
            _refuse(host, error)
        return _Directory((status.st_dev, status.st_ino), host, path, iter(names))

    def _add_member(self, host: str, path: str) -> bool:
        """Add what is in a directory; whether it is one itself, and to be entered."""
        try:
            status = os.lstat(host)
            link = os.readlink(host) if stat.S_ISLNK(status.st_mode) else None
        except OSError as error:
            _refuse(host, error)
        if link is not None:
            self._append(host, _made(host, cpio.symlink, path, link))
        elif stat.S_ISDIR(status.st_mode):
            bits = stat.S_IMODE(status.st_mode)
            self._append(host, _made(host, cpio.parent, path, bits))
            return True
        else:
            self._add_file(host, path, status)
        return False

    def _add_file(self, host: str, path: str, status: os.stat_result) -> None:
        if status.st_size > self._room:
            self._refuse_size(host)
        try:
            data = read_up_to(host, self._room + 1)  # it may have grown
        except OSError as error:
            _refuse(host, error)
        bits = stat.S_IMODE(status.st_mode)
        self._append(host, _made(host, cpio.file, path, data, bits))

    def _append(self, host: str, entry: cpio.Entry) -> None:
        self._room -= _HEADER_SIZE + len(entry.path) + len(entry.data)
        if self._room < 0:
            self._refuse_size(host)
        self._entries.append(entry)

    def _refuse_size(self, host: str) -> NoReturn:
        raise ConfigError(
            f"files: {host!r} and what was added before it don't fit memory of "
            f"{self._limit // MIB}M: pass --memory with more"
        )


def _made(host: str, make: Callable[..., cpio.Entry], *values: object) -> cpio.Entry:
    """An entry. Raises ConfigError if the kernel would not take it."""
    try:
        return make(*values)
    except ValueError as error:
        raise ConfigError(f"files: {host!r}: {error}") from None


def _refuse(host: str, error: OSError | ValueError) -> NoReturn:
    why = error.strerror if isinstance(error, OSError) else str(error)
    raise ConfigError(f"files: {host!r}: {str(why).lower()}") from None
