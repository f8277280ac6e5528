"""A Virtqueue and the driver at its other end."""

from collections.abc import Sequence
from typing import Final

import pytest

from support.plain_ram import PlainRam
from support.virtio_driver import (
    EVENT_IDX,
    INDIRECT_DESC,
    PACKED,
    Request,
    VirtioDriver,
)
from vmm.devices.errors import NotRam
from vmm.devices.guest_ram import GuestRam
from vmm.devices.virtio.chain import Chain
from vmm.devices.virtio.queue import BrokenRing, Virtqueue

RAM_SIZE: Final = 1 << 16

RINGS: Final[dict[str, int]] = {
    "split": INDIRECT_DESC,
    "split-event-idx": INDIRECT_DESC | EVENT_IDX,
    "packed": INDIRECT_DESC | PACKED,
    "packed-event-idx": INDIRECT_DESC | PACKED | EVENT_IDX,
}


each_ring = pytest.mark.parametrize("features", RINGS.values(), ids=list(RINGS))


class QueueRig:
    """Both, and what either does in one call."""

    def __init__(
        self,
        features: int = INDIRECT_DESC,
        size: int = 8,
        ram: GuestRam | None = None,
        region: range = range(RAM_SIZE),
    ) -> None:
        self.ram = PlainRam(RAM_SIZE) if ram is None else ram
        self.region = region
        self.features = features
        self.queue = Virtqueue(0, size)
        self.start(size)

    def start(self, size: int) -> None:
        """With a new driver, which knows nothing of a former one."""
        self.driver = VirtioDriver.make(self.ram, self.region, size, self.features)
        self.driver.set_up(self.queue)

    def send(self, *readable: bytes, indirect: bool = False) -> Request:
        """A request of these, and of 16 bytes to write."""
        return self.driver.send(readable, [16], indirect=indirect)

    def pop(self) -> Chain:
        chain = self.queue.pop()
        assert chain is not None
        return chain

    def answer_all(self) -> list[bytes]:
        """What was asked; everybody is answered "yes"."""
        asked = []
        for chain in self.queue:
            asked.append(chain.read(chain.readable_size))
            chain.write(b"yes")
            self.queue.push(chain)
        return asked

    def converse(self, *messages: bytes) -> None:
        """Have each sent, read and answered."""
        for message in messages:
            request = self.send(message)
            assert self.answer_all() == [message]
            assert self.driver.collect() == [request]
            assert request.data == b"yes"

    def broken(self) -> str:
        """Why the queue breaks upon what it takes next; and that it stays so."""
        why = ""
        try:
            self.queue.pop()
        except BrokenRing as error:
            why = str(error)
        assert why, "the ring isn't broken"
        assert self.queue.broken == why
        assert self.queue.pop() is None
        assert list(self.queue) == []
        assert not self.queue.needs_interrupt()
        return why


class RamOfPieces:
    """RAM that no view spans where one piece ends, as of several memory slots."""

    def __init__(self, *pieces: range) -> None:
        self._pieces = [PlainRam(len(piece), piece.start) for piece in pieces]

    def view(self, guest_addr: int, size: int) -> memoryview:
        for piece in self._pieces:
            try:
                return piece.view(guest_addr, size)
            except NotRam:
                continue
        raise NotRam(hex(guest_addr))

    def read(self, guest_addr: int, size: int) -> bytes:
        return bytes(self.view(guest_addr, size))

    def write(self, guest_addr: int, data: bytes | bytearray | memoryview) -> None:
        self.view(guest_addr, len(data))[:] = data

    def discard(self, guest_addr: int, size: int) -> None:
        self.write(guest_addr, bytes(size))


def texts(views: Sequence[memoryview]) -> list[bytes]:
    return [bytes(view) for view in views]
