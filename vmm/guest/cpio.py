"""newc archives, the cpio format that Linux unpacks an initramfs from.

    archive = cpio.write([cpio.directory("etc"), cpio.file("etc/guest.sh", b"...")])

The kernel unpacks archives that stand one after the other, the later over the
earlier, so files are added to a built initramfs with `built + archive`, as long as
the archive begins at a multiple of four bytes.

The output depends on the entries alone: owner 0:0, time 0, inodes numbered from
1 in the order given.  Nothing is read from or made in a file system, so device
nodes need no root.

The scripts that build guests import this file, too, on a bare Python: it needs the
standard library alone.

Source: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

MAGIC: Final = b"070701"
TRAILER: Final = "TRAILER!!!"
PATH_MAX: Final = 4096  # with its NUL; init/initramfs.c skips longer names
SIZE_MAX: Final = 0xFFFFFFFF
ALIGN: Final = 4  # of an archive, and of all that is in it


class Entry:
    """One member: `path` relative to the root, `mode` with its S_IFMT bits.

    `data` is the content of a file or the target of a symlink; `rdev` is the
    (major, minor) of a device node. A path that isn't UTF-8 has its bytes as
    surrogates, as from `os.fsdecode`.
    """

    __slots__ = ("data", "mode", "path", "rdev")

    def __init__(
        self, path: str, mode: int, data: bytes = b"", rdev: tuple[int, int] = (0, 0)
    ) -> None:
        """Raise ValueError if the kernel would skip or misplace `path`."""
        self.path, self.mode, self.data, self.rdev = path, mode, data, rdev
        parts = path.split("/")
        if "" in parts or ".." in parts or "\0" in path:
            raise ValueError(f"newc: {path!r} is no path relative to the root")
        if path == TRAILER:
            raise ValueError(f"newc: a member named {TRAILER} would end the archive")
        if len(_encoded(path)) >= PATH_MAX:
            raise ValueError(f"newc: path longer than {PATH_MAX - 1}: {path:.40}…")
        if len(data) > SIZE_MAX:
            raise ValueError(f"newc: {path} does not fit a 32-bit size field")


class Parent(Entry):
    """A directory that is to be there, whoever made it.

    An earlier archive may have a symlink to a directory in its place, such as a
    `bin` that is `usr/bin`. For a member named `bin` the kernel would put a
    directory in place of the link; one named `bin/` leads it through the link.
    """

    __slots__ = ()


def file(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(path, stat.S_IFREG | permissions, data)


def directory(path: str, permissions: int = 0o755) -> Entry:
    """Return a directory; it must come before what is in it."""
    return Entry(path, stat.S_IFDIR | permissions)


def parent(path: str, permissions: int = 0o755) -> Entry:
    """Return a directory that may be there already, as a symlink, too."""
    return Parent(path, stat.S_IFDIR | permissions)


def symlink(path: str, target: str) -> Entry:
    """Return a symbolic link at `path` that says `target`."""
    return Entry(path, stat.S_IFLNK | 0o777, _encoded(target))


def character_device(
    path: str, major: int, minor: int, permissions: int = 0o600
) -> Entry:
    """Return a character device node, such as `dev/console` 5:1."""
    return Entry(path, stat.S_IFCHR | permissions, rdev=(major, minor))


def write(entries: Iterable[Entry]) -> bytes:
    """Return the archive of `entries`, in their order, padded to 512 bytes."""
    parts: list[bytes] = []
    for inode, entry in enumerate(entries, start=1):
        name = entry.path + "/" * isinstance(entry, Parent)
        parts += _member(name, inode, entry)
    parts += _member(TRAILER, 0, Entry("end", mode=0))
    size = sum(map(len, parts))
    return b"".join([*parts, bytes(-size % 512)])  # cpio's block; the kernel skips it


def _member(name: str, inode: int, entry: Entry) -> tuple[bytes, bytes, bytes]:
    path = _encoded(name) + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        links,
        0,  # mtime
        len(entry.data),
        0,  # device of the file system, major and minor: one for all
        0,
        *entry.rdev,
        len(path),
        0,  # checksum: not used by magic 070701
    )
    header = MAGIC + b"".join(b"%08x" % field for field in fields) + path
    return header + _padding(header), entry.data, _padding(entry.data)


def _padding(data: bytes) -> bytes:
    return bytes(-len(data) % ALIGN)


def _encoded(path: str) -> bytes:
    return path.encode(errors="surrogateescape")
