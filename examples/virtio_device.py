"""A virtio block device in forty lines: a disk in memory, for Linux's own driver.

`machine.plug(RamDisk(2048))` before `machine.start()` gives the guest a /dev/vda.
"""

import struct

from vmm.devices import Chain, State, VirtioDevice, Virtqueue

IN, OUT = 0, 1  # VIRTIO 1.3, 5.2.6
OK, IOERR, UNSUPP = b"\0", b"\1", b"\2"


class DiskState(State):
    data: bytes


class RamDisk(VirtioDevice):
    device_type = 2
    queue_sizes = (64,)

    def __init__(self, sectors: int = 2048) -> None:
        super().__init__()
        self.data = bytearray(512 * sectors)

    def config(self) -> bytes:
        return struct.pack("<Q", len(self.data) // 512)

    def handle(self, queue: Virtqueue) -> None:
        for chain in queue:
            status = self.answer(chain)
            read = chain.written
            chain.wrote(chain.writable_size - 1)  # the status is in the last byte
            chain.write(status)
            queue.push(chain, read)

    def answer(self, chain: Chain) -> bytes:
        kind, sector = struct.unpack("<I4xQ", chain.read(16).ljust(16, b"\xff"))
        size = chain.readable_size if kind == OUT else chain.writable_size - 1
        start, end = 512 * sector, 512 * sector + size
        if kind not in (IN, OUT):
            return UNSUPP
        if size % 512 or end > len(self.data):
            return IOERR
        if kind == OUT:
            self.data[start:end] = chain.read(size)
        else:
            chain.write(self.data[start:end])
        return OK

    def state(self) -> DiskState:
        return DiskState(bytes(self.data))

    def restore(self, state: State | None) -> None:
        saved = DiskState.of(state)
        saved.require(len(saved.data) == len(self.data), "it is as large as the disk")
        self.data[:] = saved.data
