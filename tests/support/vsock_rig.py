"""A VirtioVsock with a guest that speaks packets, and a host of bytes in lists."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from support.virtio_device_rig import DeviceRig
from vmm.devices.virtio.vsock import (
    VIRTIO_VSOCK_F_SEQPACKET,
    VIRTIO_VSOCK_F_STREAM,
    VirtioVsock,
)
from vmm.devices.virtio.vsock_connection import VsockConnection
from vmm.devices.virtio.vsock_packet import (
    HEADER_SIZE,
    VIRTIO_VSOCK_OP_CREDIT_REQUEST,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE,
    VIRTIO_VSOCK_OP_REQUEST,
    VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_RST,
    VIRTIO_VSOCK_OP_RW,
    VIRTIO_VSOCK_OP_SHUTDOWN,
    VIRTIO_VSOCK_TYPE_STREAM,
    VMADDR_CID_HOST,
    Packet,
)

if TYPE_CHECKING:
    from support.virtio_driver import Request

CID: Final = 3
BOTH_KINDS: Final = 1 << VIRTIO_VSOCK_F_STREAM | 1 << VIRTIO_VSOCK_F_SEQPACKET
RX, TX, EVENT = range(3)
GUEST_PORT, HOST_PORT = 1024, 80
ROOM: Final = 1 << 16  # that the guest says it has for each connection
NAMES: Final = {
    VIRTIO_VSOCK_OP_REQUEST: "REQUEST",
    VIRTIO_VSOCK_OP_RESPONSE: "RESPONSE",
    VIRTIO_VSOCK_OP_RST: "RST",
    VIRTIO_VSOCK_OP_SHUTDOWN: "SHUTDOWN",
    VIRTIO_VSOCK_OP_RW: "RW",
    VIRTIO_VSOCK_OP_CREDIT_UPDATE: "CREDIT_UPDATE",
    VIRTIO_VSOCK_OP_CREDIT_REQUEST: "CREDIT_REQUEST",
}


class FakeEnd:
    """The host's end of a connection, which `passes_on` at once all that it takes."""

    def __init__(self, connection: VsockConnection) -> None:
        self.connection = connection
        self.is_established = self.is_closed = False
        self.received = b""
        self.ends: list[int] = []  # of messages, in `received`
        self.passes_on = True
        self.input: list[tuple[bytes, bool]] = []
        self.is_held = False
        self.guest_shut = 0

    def established(self) -> None:
        self.is_established = True

    def take(self, views: Sequence[memoryview], *, ends_message: bool) -> int:
        data = b"".join(views)
        self.received += data
        if ends_message:
            self.ends.append(len(self.received))
        return len(data) if self.passes_on else 0

    def read_into(self, views: Sequence[memoryview]) -> tuple[int, bool] | None:
        self.is_held = False
        if not self.input:
            return None
        data, is_message = self.input.pop(0)
        size = 0
        for view in views:
            part = data[size : size + len(view)]
            view[: len(part)] = part
            size += len(part)
        if size < len(data):
            self.input.insert(0, (data[size:], is_message))
        return size, is_message and size == len(data)

    def hold_input(self) -> None:
        self.is_held = True

    def shut(self, flags: int) -> None:
        self.guest_shut = flags

    def close(self) -> None:
        self.is_closed = True

    def send(self, data: bytes, is_message: bool = False) -> None:
        """Have it sent to the guest, now or when it has room."""
        self.input.append((data, is_message))
        self.connection.readable()


class VsockRig(DeviceRig):
    """A started one, whose guest has buffers, if not `rx` says otherwise.

    Somebody listens at the host's ports below 1000. What the guest got is in `got`.
    """

    device: VirtioVsock

    def __init__(
        self,
        rx: int = 16,
        features: int = BOTH_KINDS,
        device: VirtioVsock | None = None,
    ) -> None:
        """`device`, if somebody else is the host."""
        self.ends: list[FakeEnd] = []
        super().__init__(VirtioVsock(CID, self) if device is None else device)
        self.rx: list[Request] = []
        self.got: list[tuple[Packet, bytes]] = []
        self.begin(rx, features)

    def begin(self, rx: int = 16, features: int = BOTH_KINDS) -> None:
        """As a driver that finds the device."""
        self.start(features)
        self.rx = []
        self.add_buffers(rx)

    def open(self, connection: VsockConnection, /) -> FakeEnd | None:
        if connection.host_port >= 1000:
            return None
        self.ends.append(FakeEnd(connection))
        return self.ends[-1]

    # The guest

    def add_buffers(self, count: int, size: int = 4096) -> None:
        for _ in range(count):
            self.rx.append(self.drivers[RX].send([], [size]))
        self.kick(RX)

    def collect(self) -> None:
        """Take what came, without giving new buffers."""
        super().collect()
        done = [request for request in self.rx if request.is_done]
        self.rx = [request for request in self.rx if not request.is_done]
        for request in done:
            if request.length >= HEADER_SIZE:
                packet = Packet.of(request.data[:HEADER_SIZE])
                self.got.append((packet, request.data[HEADER_SIZE:]))
                assert packet.size == len(request.data) - HEADER_SIZE
                assert packet.dst_cid in (CID, VMADDR_CID_HOST)

    def packet(self, op: int, **fields: int) -> Packet:
        """One of the guest's, from GUEST_PORT to HOST_PORT."""
        base = {
            "src_cid": CID,
            "dst_cid": VMADDR_CID_HOST,
            "src_port": GUEST_PORT,
            "dst_port": HOST_PORT,
            "size": 0,
            "kind": VIRTIO_VSOCK_TYPE_STREAM,
            "buf_alloc": ROOM,
        }
        return Packet(op=op, **base | fields)

    def say(self, op: int, data: bytes = b"", /, **fields: int) -> None:
        packet = self.packet(op, **{"size": len(data)} | fields)
        readable = [packet.to_bytes(), data] if data else [packet.to_bytes()]
        request = self.send(TX, *readable)
        assert request.is_done or self.device.trouble

    def hears(self) -> list[str]:
        """The names of the ops of what it got since this was asked."""
        self.collect()
        ops = [NAMES[packet.op] for packet, _ in self.got]
        self.last = self.got[-1][0] if self.got else None
        self.data = b"".join(data for _, data in self.got)
        self.got.clear()
        return ops

    def dial(self, **fields: int) -> FakeEnd:
        """Have the guest connect to somebody."""
        self.say(VIRTIO_VSOCK_OP_REQUEST, **fields)
        assert self.hears() == ["RESPONSE"]
        return self.ends[-1]

    def call(self, kind: int = VIRTIO_VSOCK_TYPE_STREAM) -> FakeEnd:
        """Have the host connect to the guest, which hasn't said anything yet."""
        with self.device.working():
            connection = self.device.connect(GUEST_PORT, kind)
            assert connection is not None
            end = connection.end = FakeEnd(connection)
            self.ends.append(end)
            self.device.send_of(connection)
        return end
