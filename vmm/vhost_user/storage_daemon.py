"""Disks whose images qemu-storage-daemon reads and writes, by vhost-user-blk."""

import json
import os
import stat
from typing import Any, Final

from ..disk.config import DiskConfig
from ..errors import ConfigError
from .device import VhostUserDevice
from .program import Program, find_program
from .qcow2 import check_qcow2

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

        def arguments(fd: int) -> list[str]:
            return [
                program,
                *("--blockdev", json.dumps(_image(config))),
                *("--export", json.dumps(_export(config, queues, fd))),
            ]

        self._program = _StorageDaemon(NAME, arguments)
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


def _image(config: DiskConfig) -> dict[str, Any]:
    """The node "disk". Its backing files are opened as the image says."""
    is_device = stat.S_ISBLK(os.stat(config.path).st_mode)
    common: dict[str, Any] = {"read-only": config.ro, "discard": "unmap"}
    file = {
        "driver": "host_device" if is_device else "file",
        "filename": os.path.abspath(config.path),
    }
    return {
        "driver": config.image_format,
        "node-name": "disk",
        "file": file | common,
    } | common


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
