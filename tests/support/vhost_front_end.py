"""A vhost-user front end: it speaks to a backend as a VMM does, or as none should."""

import mmap
import os
import select
import socket
from collections.abc import Sequence
from struct import Struct, pack
from typing import Final

from support.virtio_driver import VirtioDriver
from vmm.devices.virtio.features import VIRTIO_F_VERSION_1
from vmm.vhost_user import protocol

PATIENCE_MS: Final = 60_000
VERSION_1: Final = 1 << VIRTIO_F_VERSION_1
BIT_30: Final = 1 << protocol.VHOST_USER_F_PROTOCOL_FEATURES
USER_ADDR: Final = 0x7F00_0000_0000


class MemfdRam:
    """A GuestRam that can be shared: zeros at `start`..`start + size - 1`."""

    def __init__(self, size: int, start: int = 0) -> None:
        self.fd = os.memfd_create("ram")
        os.ftruncate(self.fd, size)
        self.start, self.size = start, size
        self.mmap_offset = 0
        """How much of the file is before what is shared."""
        self._mmap = memoryview(mmap.mmap(self.fd, size))

    def view(self, guest_addr: int, size: int) -> memoryview:
        at = guest_addr - self.start + self.mmap_offset
        assert 0 <= at <= at + size <= self.size
        return self._mmap[at : at + size]

    def read(self, guest_addr: int, size: int) -> bytes:
        return bytes(self.view(guest_addr, size))

    def write(self, guest_addr: int, data: bytes | bytearray | memoryview) -> None:
        self.view(guest_addr, len(data))[:] = data

    def discard(self, guest_addr: int, size: int) -> None:
        raise NotImplementedError

    def region(self) -> bytes:
        """As SET_MEM_TABLE has it."""
        size = self.size - self.mmap_offset
        return protocol.REGION.pack(self.start, size, USER_ADDR, self.mmap_offset)

    def close(self) -> None:
        os.close(self.fd)


class FrontEnd:
    """A front end with 1 MiB of RAM, and drivers of rings in it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(PATIENCE_MS / 1000)
        self.ram = MemfdRam(1 << 20)
        self.features = VERSION_1
        self.kicks: dict[int, int] = {}
        self.calls: dict[int, int] = {}
        self.errs: dict[int, int] = {}

    def close(self) -> None:
        self.socket.close()
        for fd in (*self.kicks.values(), *self.calls.values(), *self.errs.values()):
            os.close(fd)
        self.ram.close()

    # Messages

    def send(
        self,
        request: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        flags: int = 0,
    ) -> None:
        header = protocol.HEADER.pack(request, protocol.VERSION | flags, len(payload))
        self.send_raw(header + payload, fds)

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        socket.send_fds(self.socket, [data], list(fds))

    def receive(self) -> tuple[int, int, bytes]:
        """Request, flags and payload of the next message."""
        request, flags, size = protocol.HEADER.unpack(self._exactly(12))
        return request, flags, self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the backend has ended the connection"
            data += more
        return data

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        """The reply's payload."""
        self.send(request, payload)
        answered, flags, reply = self.receive()
        assert (answered, flags) == (request, protocol.VERSION | protocol.REPLY)
        return reply

    def ask_u64(self, request: int) -> int:
        (value,) = protocol.U64.unpack(self.ask(request))
        assert isinstance(value, int)
        return value

    def tell(self, request: int, form: Struct, *fields: int, fd: int = -1) -> None:
        """Send, and wait until it is done."""
        fds = [fd] if fd >= 0 else []
        self.send(request, form.pack(*fields), fds, protocol.NEED_REPLY)
        assert self.receive()[2] == bytes(8)

    def is_over(self) -> bool:
        """Whether the backend ends the connection; waits for that."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    # What a VMM does

    def begin(self) -> None:
        """As far as REPLY_ACK."""
        self.send(protocol.SET_OWNER)
        assert self.ask_u64(protocol.GET_FEATURES) & BIT_30
        offered = self.ask_u64(protocol.GET_PROTOCOL_FEATURES)
        self.send(protocol.SET_PROTOCOL_FEATURES, protocol.U64.pack(offered))

    def set_up(self, features: int = 0) -> None:
        """Features and memory, as they are once a driver is ready."""
        self.features = features | VERSION_1
        self.tell(protocol.SET_FEATURES, protocol.U64, self.features | BIT_30)
        self.send_memory()

    def send_memory(self) -> None:
        payload = pack("=II", 1, 0) + self.ram.region()
        flags = protocol.NEED_REPLY
        self.send(protocol.SET_MEM_TABLE, payload, [self.ram.fd], flags)
        assert self.receive()[2] == bytes(8)

    def new_driver(self, index: int = 0, size: int = 8) -> VirtioDriver:
        region = range(0x10000 * index, 0x10000 * (index + 1))
        return VirtioDriver.make(self.ram, region, size, self.features)

    def start(
        self,
        index: int,
        driver: VirtioDriver,
        base: int | None = None,
        enable: bool = True,
    ) -> None:
        """Start and enable a ring; `base` None is where a new driver begins."""
        desc, available, used = (USER_ADDR + area for area in driver.areas)
        if base is None:
            base = 0x80008000 if driver.is_packed else 0
        state, u64 = protocol.VRING_STATE, protocol.U64
        self.tell(protocol.SET_VRING_NUM, state, index, driver.size)
        self.tell(protocol.SET_VRING_BASE, state, index, base)
        addr = index, 0, desc, used, available, 0
        self.tell(protocol.SET_VRING_ADDR, protocol.VRING_ADDR, *addr)
        for request, fds in (
            (protocol.SET_VRING_CALL, self.calls),
            (protocol.SET_VRING_ERR, self.errs),
            (protocol.SET_VRING_KICK, self.kicks),
        ):
            if index not in fds:
                fds[index] = os.eventfd(0, os.EFD_NONBLOCK)
            self.tell(request, u64, index, fd=fds[index])
        if enable:
            self.tell(protocol.SET_VRING_ENABLE, state, index, 1)

    def stop(self, index: int) -> int:
        """Stop a ring; returns its base."""
        payload = protocol.VRING_STATE.pack(index, 0)
        stopped, base = protocol.VRING_STATE.unpack(
            self.ask(protocol.GET_VRING_BASE, payload)
        )
        assert stopped == index
        assert isinstance(base, int)
        return base

    def kick(self, index: int = 0) -> None:
        os.eventfd_write(self.kicks[index], 1)

    def wait_for_call(self, index: int = 0) -> None:
        wait_for(self.calls[index])

    def wait_for_err(self, index: int = 0) -> None:
        wait_for(self.errs[index])


def wait_for(fd: int) -> None:
    """Until an eventfd is written to; takes that."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(PATIENCE_MS), "no word from the backend"
    os.eventfd_read(fd)
