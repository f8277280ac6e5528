"""Disks: those of a machine, over its life, its snapshots and its clones."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ..devices.errors import ResourceError
from ..devices.token_bucket import TokenBucket
from ..devices.virtio.blk import VirtioBlk
from ..disk.config import RAW, DiskConfig
from ..disk.opening import Backend, open_backend, open_clone
from ..disk.raw import RawDisk
from ..errors import ConfigError, VmmError

if TYPE_CHECKING:
    from ..config import MachineConfig
    from ..devices.clock import Clock
    from ..devices.virtio.device import VirtioDevice
    from ..disk.overlay import FrozenDisk
    from .served_disk import ServedDisk

QUEUES_MAX: Final = 8
"""One for each vCPU, up to this: one thread serves them all."""


class Disk:
    """One of a machine's, as `machine.disks` has them; for any thread."""

    def __init__(self, config: DiskConfig, backend: Backend) -> None:
        self.config = config
        self.backend: Final = backend
        self.device: VirtioBlk | None = None

    def make_device(self, clock: "Clock", queues: int) -> VirtioBlk:
        """What the guest has of it."""
        config = self.config
        self.device = VirtioBlk(
            self.backend,
            config.serial.encode(),
            queues,
            name=f"disk {config.path!r}",
            writeback=config.cache == "writeback",
            rate=_bucket(config.rate, config.burst, clock),
            ops=_bucket(config.iops, config.iops_burst, clock),
        )
        return self.device

    @property
    def size(self) -> int:
        """Bytes, as the guest sees it."""
        return self.backend.size

    def resize(self, size: int | None = None) -> None:
        """Have `size` bytes, a multiple of 512; the guest is told, while it runs, too.

        None: what its file has now. One with an overlay can only grow.
        Raises ConfigError if it can't be.
        """
        if size is not None and (size <= 0 or size % 512):
            raise ConfigError(f"size: {size} is not a multiple of 512 above 0")
        assert self.device is not None
        try:
            with self.device.standing_still():
                self.backend.resize(size)
        except OSError as error:
            message = f"disks: {self.config.path!r}: {error.strerror}"
            raise ConfigError(message) from None
        self.device.resized()

    def freeze(self) -> "FrozenDisk | None":
        """As it is, while the guest stands still; None if it can't be. OSError."""
        return self.backend.freeze()

    def become(self, frozen: "FrozenDisk") -> None:
        """Have what it had then. Raises OSError."""
        self.backend.become(frozen)

    def close(self) -> None:
        """Raises OSError."""
        self.backend.close()


class Disks:
    """All of them, open from the machine's making to its end."""

    def __init__(
        self,
        config: "MachineConfig",
        warn: Callable[[str], None],
        frozen: "Sequence[FrozenDisk] | None" = None,
    ) -> None:
        """As they were at a snapshot, if `frozen` has them. Raises ConfigError."""
        self._is_clones = frozen is not None
        self._warn = warn
        self._queues = min(config.cpus, QUEUES_MAX)
        self.all: list[Disk | ServedDisk] = []
        try:
            for index, disk in enumerate(config.disks):
                if disk.is_served:
                    self.all.append(_served(disk, self._queues))
                elif frozen is None:
                    self.all.append(Disk(disk, open_backend(disk, warn)))
                else:
                    self.all.append(Disk(disk, open_clone(disk, frozen[index])))
            if config.seed:
                self.all.append(_seed(config.seed, frozen))
        except BaseException:
            self.close()
            raise

    def plug(self, plug: "Callable[[VirtioDevice], None]", clock: "Clock") -> None:
        """In their order. Raises ConfigError."""
        for disk in self.all:
            try:
                plug(disk.make_device(clock, self._queues))
            except ResourceError as error:
                path = disk.config.path
                raise ConfigError(f"disks: {path!r} has no place: {error}") from None

    def freeze(self) -> "tuple[FrozenDisk, ...]":
        """As they are, while the guest stands still. Raises VmmError."""
        return tuple(self._frozen(disk) for disk in self.all)

    @staticmethod
    def _frozen(disk: "Disk | ServedDisk") -> "FrozenDisk":
        path = disk.config.path
        try:
            frozen = disk.freeze()
        except OSError as error:
            raise VmmError(f"disks: {path!r}: {error.strerror}") from None
        if frozen is None:
            raise VmmError(
                f"disks: {path!r} is written to in its place, where no snapshot can "
                "keep it: add cow, or ro"
            )
        return frozen

    def become(self, frozen: "Sequence[FrozenDisk]") -> None:
        """Have what they had then. Raises VmmError, with none of them changed."""
        for disk in self.all:
            if isinstance(disk.config.cow, str) and not self._is_clones:
                raise VmmError(
                    f"disks: {disk.config.path!r} has an overlay that stays, which "
                    "isn't put back: pass cow alone"
                )
        for disk, then in zip(self.all, frozen, strict=True):
            try:
                disk.become(then)
            except OSError as error:
                path = disk.config.path
                raise VmmError(f"disks: {path!r}: {error.strerror}") from None

    def close(self) -> None:
        """With all that is to stay where it stays. Idempotent."""
        for disk in self.all:
            try:
                disk.close()
            except OSError as error:
                self._warn(f"disk {disk.config.path!r}: {error.strerror}")


def _seed(paths: tuple[str, ...], frozen: "Sequence[FrozenDisk] | None") -> Disk:
    """After all others, as it was for the machine that a clone comes from."""
    from ..cloud.seed import make_seed  # few machines have one

    file = make_seed(paths) if frozen is None else frozen[-1].base.share()
    config = DiskConfig(path=paths[0], ro=True, format=RAW, serial="seed")
    return Disk(config, RawDisk(file, is_read_only=True))


def _served(config: DiskConfig, queues: int) -> "ServedDisk":
    from .served_disk import ServedDisk  # most disks are raw

    return ServedDisk(config, queues)


def _bucket(rate: int | None, burst: int | None, clock: "Clock") -> TokenBucket | None:
    if rate is None:
        return None
    return TokenBucket(rate, burst or max(1, rate // 10), clock)
