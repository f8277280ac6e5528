"""A VirtioBlk with a disk in memory, and a driver that speaks its requests."""

import errno
import os
from collections.abc import Callable, Sequence
from struct import pack

from support.virtio_device_rig import DeviceRig
from support.virtio_driver import Request
from vmm.devices.virtio.blk import (
    VIRTIO_BLK_F_CONFIG_WCE,
    VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
    VirtioBlk,
)

SECTORS = 64
WRITEBACK = 1 << VIRTIO_BLK_F_FLUSH
CHOOSES = WRITEBACK | 1 << VIRTIO_BLK_F_CONFIG_WCE


class MemoryDisk:
    """A backend that notes what it is asked for; `fails` is raised by all of it.

    `meanwhile` is called in the middle of a read or a write.
    """

    block_size = physical_block_size = 512

    def __init__(self, sectors: int = SECTORS, *, is_read_only: bool = False) -> None:
        self.data = bytearray(os.urandom(512 * sectors))
        self.is_read_only = is_read_only
        self.calls: list[tuple[object, ...]] = []
        self.fails: int | None = None
        self.meanwhile: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        return len(self.data)

    @size.setter
    def size(self, size: int) -> None:
        self.data = self.data[:size].ljust(size, b"\0")

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        if self.fails is not None:
            raise OSError(self.fails, os.strerror(self.fails))

    def read(self, views: Sequence[memoryview], offset: int) -> None:
        self._note("read", offset, sum(map(len, views)))
        self.meanwhile()
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def write(self, views: Sequence[memoryview], offset: int) -> None:
        data = b"".join(views)
        self._note("write", offset, len(data))
        self.meanwhile()
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self._note("flush")

    def discard(self, offset: int, size: int) -> None:
        self._note("discard", offset, size)

    def write_zeroes(self, offset: int, size: int, may_discard: bool) -> None:
        self._note("zero", offset, size, may_discard)
        self.data[offset : offset + size] = bytes(size)


class BlkRig(DeviceRig):
    """A started one, with a driver that leaves flushing to itself."""

    def __init__(
        self, disk: MemoryDisk | None = None, features: int = WRITEBACK, **how: object
    ) -> None:
        self.disk = disk or MemoryDisk()
        self.blk = VirtioBlk(self.disk, **how)  # type: ignore[arg-type]
        super().__init__(self.blk)
        self.start(features)

    def ask(
        self, kind: int, sector: int = 0, data: bytes = b"", *, room: int = 0
    ) -> Request:
        """A request with a byte more of room than `room`; all in one buffer each."""
        return self.send(0, header(kind, sector), *filter(None, [data]), room=room + 1)

    def read(self, sector: int, size: int) -> bytes:
        request = self.ask(VIRTIO_BLK_T_IN, sector, room=size)
        assert self.status(request) == 0
        assert request.length == size + 1
        return request.data[:-1]

    def write(self, sector: int, data: bytes) -> int:
        return self.status(self.ask(VIRTIO_BLK_T_OUT, sector, data))

    def status(self, request: Request) -> int:
        """How it went; 0xEE if it isn't done, or nobody has written that."""
        room = [(at, size) for at, size, is_writable in request.buffers if is_writable]
        at, size = room[-1]
        return self.ram.read(at + size - 1, 1)[0]


def header(kind: int, sector: int = 0) -> bytes:
    return pack("<IIQ", kind, 0, sector)


def a_range(sector: int, sectors: int, flags: int = 0) -> bytes:
    return pack("<QII", sector, sectors, flags)


FULL = errno.ENOSPC
