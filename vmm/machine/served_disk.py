"""ServedDisk: a disk of a machine's whose image another process reads and writes."""

from typing import TYPE_CHECKING, NoReturn

from ..errors import ConfigError
from ..vhost_user.storage_daemon import VhostUserBlk

if TYPE_CHECKING:
    from ..devices.clock import Clock
    from ..disk.config import DiskConfig
    from ..disk.overlay import FrozenDisk


class ServedDisk:
    """One of a machine's, as `machine.disks` has them. Raises ConfigError."""

    def __init__(self, config: "DiskConfig", queues: int) -> None:
        self.config = config
        self.device = VhostUserBlk(config, queues)

    def make_device(self, clock: "Clock", queues: int) -> VhostUserBlk:
        """What the guest has of it."""
        return self.device

    @property
    def size(self) -> int:
        """Bytes, as the guest sees it."""
        return self.device.size

    @property
    def pid(self) -> int:
        """The other process."""
        return self.device.pid

    def resize(self, size: int | None = None) -> NoReturn:
        """Raises ConfigError."""
        what = f"{self.config.path!r}, a {self.config.image_format} image"
        raise ConfigError(f"disks: {what}, keeps its size: qemu-img resizes it")

    def freeze(self) -> None:
        """It can't be; a machine that has one takes no snapshots."""

    def become(self, frozen: "FrozenDisk") -> None:
        """Never, then."""

    def close(self) -> None:
        """End the other process, with all written. Idempotent."""
        self.device.close()
