"""A virtio device in a world of its own, without a transport: queues, and a driver."""

from typing import Final

from support.plain_ram import PlainRam
from support.virtio_driver import Request, VirtioDriver
from vmm.devices.guest_ram import GuestRam
from vmm.devices.virtio.device import VirtioDevice
from vmm.devices.virtio.features import VIRTIO_F_VERSION_1
from vmm.devices.virtio.queue import Virtqueue

VERSION_1: Final = 1 << VIRTIO_F_VERSION_1
REGION: Final = 0x20000
"""Of each queue's driver, one after another from address 0."""


class DeviceRig:
    """Drives `device`; its RAM is `ram`, or some of ours.

    `interrupts` are the queues that it has interrupted for, "config" for the
    configuration space. Messages of `fail` are in `told`.
    """

    def __init__(self, device: VirtioDevice, ram: GuestRam | None = None) -> None:
        self.device = device
        self.ram = PlainRam(len(device.queues) * REGION) if ram is None else ram
        self.interrupts: list[int | str] = []
        self.again: list[Virtqueue] = []
        self.told: list[str] = []
        device.transport = self
        device.on_trouble = self.told.append
        self.drivers: list[VirtioDriver] = []

    # The device's Transport

    def interrupt_queue(self, queue: Virtqueue) -> None:
        self.interrupts.append(queue.index)

    def interrupt_config(self) -> None:
        self.interrupts.append("config")

    def serve_again(self, queue: Virtqueue) -> None:
        self.again.append(queue)

    # A driver

    def start(self, features: int = 0, size: int = 16) -> None:
        """Find the device anew, and accept these features of its own."""
        self.device.stop()
        self.device.negotiated = VERSION_1 | features
        self.drivers = [
            VirtioDriver.make(
                self.ram, range(index * REGION, (index + 1) * REGION), size
            )
            for index in range(len(self.device.queues))
        ]
        for driver, queue in zip(self.drivers, self.device.queues, strict=True):
            driver.set_up(queue)
        self.device.start()

    def send(self, queue: int, *readable: bytes, room: int = 0) -> Request:
        """Make a request available, and kick."""
        request = self.drivers[queue].send(readable, [room] if room else [])
        self.kick(queue)
        return request

    def kick(self, queue: int) -> None:
        """And see what is done, too."""
        self.device.serve(self.device.queues[queue])
        self.collect()

    def collect(self) -> None:
        for driver in self.drivers:
            driver.collect()
