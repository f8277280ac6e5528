"""newc archives, the cpio format that Linux unpacks an initramfs from.

    archive = newc.write([newc.directory("etc"), newc.file("etc/guest.sh", b"...")])

The kernel unpacks archives that stand one after the other, the later over the
earlier, so a test adds its script to a built initramfs with `built + archive`.

The output depends on the entries alone: owner 0:0, time 0, inodes numbered from
1 in the order given.  Nothing is read from or made in a file system, so device
nodes need no root.

Source: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

MAGIC: Final = b"070701"
TRAILER: Final = "TRAILER!!!"
PATH_MAX: Final = 4096  # with its NUL; init/initramfs.c skips longer names


@dataclass(frozen=True, slots=True)
class Entry:
    """One member: `path` relative to the root, `mode` with its S_IFMT bits.

    `data` is the content of a file or the target of a symlink; `rdev` is the
    (major, minor) of a device node.
    """

    path: str
    mode: int
    data: bytes = b""
    rdev: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        """Raise ValueError if the kernel would skip or misplace `path`."""
        parts = self.path.split("/")
        if "" in parts or ".." in parts or "\0" in self.path:
            raise ValueError(f"newc: {self.path!r} is no path relative to the root")
        if self.path == TRAILER:
            raise ValueError(f"newc: a member named {TRAILER} would end the archive")
        if len(self.path.encode()) >= PATH_MAX:
            raise ValueError(f"newc: path longer than {PATH_MAX - 1}: {self.path:.40}…")
        if len(self.data) > 0xFFFFFFFF:
            raise ValueError(f"newc: {self.path} does not fit a 32-bit size field")


def file(path: str, data: bytes, permissions: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(path, stat.S_IFREG | permissions, data)


def directory(path: str, permissions: int = 0o755) -> Entry:
    """Return a directory; it must come before what is in it."""
    return Entry(path, stat.S_IFDIR | permissions)


def symlink(path: str, target: str) -> Entry:
    """Return a symbolic link at `path` that says `target`."""
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(
    path: str, major: int, minor: int, permissions: int = 0o600
) -> Entry:
    """Return a character device node, such as `dev/console` 5:1."""
    return Entry(path, stat.S_IFCHR | permissions, rdev=(major, minor))


def write(entries: Iterable[Entry]) -> bytes:
    """Return the archive of `entries`, in their order, padded to 512 bytes."""
    members = [_member(e.path, inode, e) for inode, e in enumerate(entries, start=1)]
    members.append(_member(TRAILER, 0, Entry("end", mode=0)))
    archive = b"".join(members)
    return archive + bytes(-len(archive) % 512)  # cpio's block; the kernel skips NULs


def _member(name: str, inode: int, entry: Entry) -> bytes:
    path = name.encode() + b"\0"
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
    return _padded(header) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
