"""Devices for a backend's process of its own: python -m vmm.vhost_user NAME."""

from vmm.devices.virtio.device import VirtioDevice
from vmm.devices.virtio.queue import Virtqueue


class CountingRng(VirtioDevice):
    """An entropy device that counts, in eight digits each, for a guest to tell."""

    device_type = 4
    queue_sizes = (64,)

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def handle(self, queue: Virtqueue) -> None:
        for chain in queue:
            for _ in range(chain.writable_size // 8):
                chain.write(b"%08d" % self._count)
                self._count += 1
            queue.push(chain)


class PackedRng(CountingRng):
    """Another, which offers packed rings."""

    packed = True


RNG = CountingRng()


class Raiser(CountingRng):
    """One that raises as soon as it is looked at."""

    def handle(self, queue: Virtqueue) -> None:
        raise ValueError("on purpose")


class Wrong(CountingRng):
    """One that can't be."""

    queue_sizes = (24,)
