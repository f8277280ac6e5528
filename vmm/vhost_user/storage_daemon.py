"""Disks whose images qemu-storage-daemon reads and writes, by vhost-user-blk."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ..disk.config import DiskConfig
from ..disk.layer import nameless_file
from ..errors import ConfigError
from .device import VhostUserDevice
from .program import Program, find_program
from .qcow2 import check_overlay, check_qcow2, new_overlay, write_overlay

NAME: Final = "qemu-storage-daemon"
PACKAGES: Final = "install qemu-system-common (Debian 12) or qemu-utils (Debian 13)"
VIRTIO_BLK: Final = 2
_CONFIG_SIZE: Final = 60  # struct virtio_blk_config, as far as QEMU 7.2 knows it
_QUEUE_SIZE: Final = 128  # QEMU's own


class VhostUserBlk(VhostUserDevice):
    """A disk, whose image is `config`'s, with so many queues. Raises ConfigError."""

    drains = True

    def __init__(self, config: DiskConfig, queues: int) -> None:
        path = config.path
        program = find_program([NAME], f"disks: {path!r}", PACKAGES)
        _check(config)
        with _opened(config) as (image, fds):

            def arguments(fd: int) -> list[str]:
                return [
                    program,
                    *("--blockdev", json.dumps({**image, "node-name": "disk"})),
                    *("--export", json.dumps(_export(config, queues, fd))),
                ]

            self._program = _StorageDaemon(NAME, arguments, fds=fds)
            super().__init__(
                VIRTIO_BLK,
                self._program,
                queue_sizes=(_QUEUE_SIZE,) * queues,
                config_size=_CONFIG_SIZE,
                name=f"disk {path!r}",
            )

    @property
    def size(self) -> int:
        """Bytes, as the guest sees it."""
        return 512 * int.from_bytes(self.config()[:8], "little")

    @property
    def pid(self) -> int:
        """The program's, while it runs."""
        return self._program.pid


class _StorageDaemon(Program):
    def last_words(self) -> str:
        """Without the options, which it quotes before what is wrong with them."""
        words = super().last_words()
        _, is_quoted, error = words.rpartition("}: ")
        return f"{NAME}: {error}" if is_quoted else words


def _check(config: DiskConfig) -> None:
    """What the program would say less clearly. Raises ConfigError."""
    try:
        kind = os.stat(config.path).st_mode
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"disks: {config.path!r}: {what}") from None
    if not stat.S_ISREG(kind) and not stat.S_ISBLK(kind):
        raise ConfigError(f"disks: {config.path!r} is no file, and no block device")
    if config.image_format == "qcow2":
        check_qcow2(config.path)


@contextmanager
def _opened(config: DiskConfig) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """The disk as a block node, and what the program must inherit for it.

    The descriptors are closed at the end of the ``with``.
    """
    image_format, path = config.image_format, config.path
    base = _image(image_format, path, read_only=bool(config.ro or config.cow))
    if not config.cow:
        yield base, []
    elif isinstance(config.cow, str):
        yield _kept_overlay(config.cow, path) | {"backing": base}, []
    else:
        fd = _vanishing_overlay(path)
        try:  # by a path: its locks and reopens are for none that it is given
            overlay = _image("qcow2", f"/proc/self/fd/{fd}")
            yield overlay | {"backing": base}, [fd]
        finally:
            os.close(fd)


def _image(image_format: str, path: str, *, read_only: bool = False) -> dict[str, Any]:
    """A block node. Its backing files, if any, are opened as the image says."""
    is_device = stat.S_ISBLK(os.stat(path).st_mode)
    common: dict[str, Any] = {"read-only": read_only, "discard": "unmap"}
    file = {
        "driver": "host_device" if is_device else "file",
        "filename": os.path.abspath(path),
    }
    return {"driver": image_format, "file": file | common} | common


def _kept_overlay(path: str, base: str) -> dict[str, Any]:
    try:
        if not os.path.exists(path):
            new_overlay(path, base)
    except OSError as error:
        raise ConfigError(f"disks: cow: {path!r}: {error.strerror}") from None
    check_overlay(path)
    return _image("qcow2", path)


def _vanishing_overlay(base: str) -> int:
    try:
        fd = nameless_file()
        try:
            write_overlay(fd, base)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise ConfigError(f"disks: {base!r}: no overlay: {error.strerror}") from None
    return fd


def _export(config: DiskConfig, queues: int, fd: int) -> dict[str, Any]:
    return {
        "type": "vhost-user-blk",
        "id": "disk",
        "node-name": "disk",
        "addr": {"type": "fd", "str": str(fd)},
        "writable": not config.ro,
        "writethrough": config.cache == "writethrough",
        "num-queues": queues,
    }
