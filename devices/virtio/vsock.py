"""VirtioVsock: sockets between a guest's programs and the host's, without a network.

The guest's packets are taken as they come; what it is to be told of them, if it has no
room for that, is bounded, and keeps its next ones waiting. Nothing of a connection goes
into a snapshot: the guest is told that they are gone, and listens on.
Sources: VIRTIO 1.3, 5.10; Linux net/vmw_vsock/virtio_transport*.c.
"""

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING, Final, Protocol

from .device import VirtioDevice
from .vsock_connection import VsockConnection, VsockEnd
from .vsock_packet import (
    HEADER_SIZE,
    VIRTIO_VSOCK_MAX_PKT_BUF_SIZE,
    VIRTIO_VSOCK_OP_CREDIT_REQUEST,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE,
    VIRTIO_VSOCK_OP_REQUEST,
    VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_RST,
    VIRTIO_VSOCK_OP_RW,
    VIRTIO_VSOCK_OP_SHUTDOWN,
    VIRTIO_VSOCK_TYPE_SEQPACKET,
    VIRTIO_VSOCK_TYPE_STREAM,
    VMADDR_CID_HOST,
    Packet,
)

if TYPE_CHECKING:
    from ..state import State
    from .chain import Chain
    from .queue import Virtqueue

VIRTIO_VSOCK_F_STREAM: Final = 0
VIRTIO_VSOCK_F_SEQPACKET: Final = 1

VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: Final = 0

CIDS: Final = range(3, 0xFFFF_FFFF)
"""Those that a guest may have: others are reserved."""
CONNECTIONS_MAX: Final = 256
REPLIES_MAX: Final = 256
"""Refusals that wait for the guest's buffers, before it is heard again."""

_RX, _TX, _EVENT = range(3)
_CONFIG: Final = Struct("<Q")  # guest_cid
_EVENT_ID: Final = Struct("<I")
_FIRST_PORT: Final = 1 << 30  # of the host's ends, where it is the one that connects
_PORTS_END: Final = (1 << 32) - 1  # VMADDR_PORT_ANY


class VsockHost(Protocol):
    """Whom a guest's programs reach."""

    def open(self, connection: VsockConnection, /) -> VsockEnd | None:
        """The guest connects to `connection.host_port`: the host's end, or nobody.

        With the device's lock held: it must not block. `established` follows.
        """


class VirtioVsock(VirtioDevice):
    """A guest's sockets of AF_VSOCK, STREAM and SEQPACKET; its address is `guest_cid`.

    `host` answers the guest's connections, `connect` makes one of the host's. There are
    `CONNECTIONS_MAX` at a time.
    """

    device_type = 19
    queue_sizes = (128, 128, 16)
    features = 1 << VIRTIO_VSOCK_F_STREAM | 1 << VIRTIO_VSOCK_F_SEQPACKET

    def __init__(self, guest_cid: int, host: VsockHost) -> None:
        """Raises ValueError for a `guest_cid` that no guest can have."""
        if guest_cid not in CIDS:
            raise ValueError(
                f"a guest's CID is {CIDS.start}..{CIDS.stop - 1:#x}, not {guest_cid}"
            )
        super().__init__()
        self.guest_cid: Final = guest_cid
        self._host = host
        self._next_port = _FIRST_PORT
        self._is_held = False
        self._forget_all()

    def _forget_all(self) -> None:
        self._connections: dict[tuple[int, int], VsockConnection] = {}
        self._waiting: dict[VsockConnection, None] = {}  # in their order
        self._replies: deque[bytes] = deque()
        self._events: list[Chain] = []
        self._is_sending = False
        self._tx_waits = False  # until there is room for replies
        # A TRANSPORT_RESET that the guest is to be told of, and that it has seen.
        self._reset_is_due = self._reset_is_told = False

    # For the host

    def connect(self, guest_port: int, kind: int) -> VsockConnection | None:
        """Begin a connection to a port of the guest's, of type `kind`.

        It gets its `end` before this thread lets go of the device's lock, which it has
        to hold; `established` tells that the guest has accepted it, `close` that not.
        None: the guest has no driver, or there are too many already.
        """
        if not self.is_active or len(self._connections) >= CONNECTIONS_MAX:
            return None
        if not self._takes(kind):
            return None
        port = self._free_port(guest_port)
        connection = VsockConnection(self, guest_port, port, kind)
        self._connections[guest_port, port] = connection
        connection.due.add(VIRTIO_VSOCK_OP_REQUEST)
        return connection

    def _free_port(self, guest_port: int) -> int:
        while True:
            port = self._next_port
            self._next_port = port + 1 if port + 1 < _PORTS_END else _FIRST_PORT
            if (guest_port, port) not in self._connections:
                return port

    def hold(self) -> None:
        """Send the guest nothing, until `release`."""
        with self.lock:
            self._is_held = True

    def release(self) -> None:
        """Undo it. Idempotent."""
        with self.working():
            self._is_held = False
            self._send()

    # As Owner has it, with the lock held

    def wait(self, connection: VsockConnection, /) -> None:
        if connection.is_open:
            self._waiting[connection] = None

    def is_waiting(self, connection: VsockConnection, /) -> bool:
        return connection in self._waiting

    def send_of(self, connection: VsockConnection, /) -> None:
        self.wait(connection)
        self._send()

    def abort(self, connection: VsockConnection, /) -> None:
        self.forget(connection)
        self._replies.append(connection.header(VIRTIO_VSOCK_OP_RST))
        self._send()

    def forget(self, connection: VsockConnection, /) -> None:
        connection.is_open = False
        self._waiting.pop(connection, None)
        del self._connections[connection.guest_port, connection.host_port]
        connection.end.close()

    # As its driver has it

    def config(self) -> bytes:
        return _CONFIG.pack(self.guest_cid)

    def handle(self, queue: "Virtqueue") -> None:
        if queue.index == _TX:
            self._take_packets(queue)
        elif queue.index == _EVENT:
            self._take_events(queue)
        self._send()

    def reset_queue(self, queue: "Virtqueue") -> None:
        if queue.index == _EVENT:
            self._events.clear()

    def reset(self) -> None:
        for connection in list(self._connections.values()):
            self.forget(connection)
        self._forget_all()

    def restore(self, state: "State | None") -> None:
        """Connections of before are none of today's host's: see `_tell_reset`."""
        super().restore(state)
        self._reset_is_due = True

    # Packets of the guest's

    def _take_packets(self, queue: "Virtqueue") -> None:
        self._tx_waits = False
        for chain in queue:
            if len(self._replies) >= REPLIES_MAX:
                queue.put_back(chain)
                self._tx_waits = True
                return
            header = chain.read(HEADER_SIZE)
            if len(header) == HEADER_SIZE:
                self._take(Packet.of(header), chain)
            queue.push(chain)

    def _take(self, packet: Packet, chain: "Chain") -> None:
        """A packet, of whose header nobody reads a second copy."""
        if packet.src_cid != self.guest_cid:
            return
        key = packet.src_port, packet.dst_port
        connection = self._connections.get(key)
        is_sound = (
            packet.dst_cid == VMADDR_CID_HOST
            and self._takes(packet.kind)
            and packet.size <= VIRTIO_VSOCK_MAX_PKT_BUF_SIZE
            and packet.size <= chain.readable_size
        )
        if connection is None:
            if packet.op == VIRTIO_VSOCK_OP_REQUEST and is_sound:
                self._open(packet)
            else:
                self._refuse(packet)
        elif packet.dst_cid != VMADDR_CID_HOST or packet.kind != connection.kind:
            self._refuse(packet)  # it is none of that connection's
        elif packet.op == VIRTIO_VSOCK_OP_RST:
            self.forget(connection)
        elif not is_sound or not self._take_of(connection, packet, chain):
            self.abort(connection)

    def _takes(self, kind: int) -> bool:
        if kind == VIRTIO_VSOCK_TYPE_SEQPACKET:
            return self.has(VIRTIO_VSOCK_F_SEQPACKET)
        return kind == VIRTIO_VSOCK_TYPE_STREAM  # it is implied: 5.10.3

    def _refuse(self, packet: Packet) -> None:
        if packet.op != VIRTIO_VSOCK_OP_RST:
            self._replies.append(packet.refusal().to_bytes())

    def _open(self, packet: Packet) -> None:
        """The guest connects."""
        if len(self._connections) >= CONNECTIONS_MAX:
            self._refuse(packet)
            return
        port = packet.dst_port
        connection = VsockConnection(self, packet.src_port, port, packet.kind)
        end = self._host.open(connection) if connection.credit(packet) else None
        if end is None:
            self._refuse(packet)
            return
        connection.end = end
        connection.due.add(VIRTIO_VSOCK_OP_RESPONSE)
        self._connections[packet.src_port, port] = connection
        self.wait(connection)
        connection.establish()

    def _take_of(
        self, connection: VsockConnection, packet: Packet, chain: "Chain"
    ) -> bool:
        """A packet of a connection that there is; False: it can't be."""
        if not connection.credit(packet):
            return False
        if packet.op == VIRTIO_VSOCK_OP_RW:
            return connection.receive(packet, chain)
        if packet.op == VIRTIO_VSOCK_OP_CREDIT_UPDATE:
            return True
        if packet.op == VIRTIO_VSOCK_OP_CREDIT_REQUEST:
            connection.due.add(VIRTIO_VSOCK_OP_CREDIT_UPDATE)
            self.wait(connection)
            return True
        if packet.op == VIRTIO_VSOCK_OP_SHUTDOWN:
            if connection.shut_by_guest(packet.flags) and connection.is_open:
                self.abort(connection)  # that is how the guest learns that we know
            return True
        if packet.op == VIRTIO_VSOCK_OP_RESPONSE and not connection.is_established:
            connection.establish()
            self.wait(connection)
            return True
        return False

    # What is for the guest

    def _send(self) -> None:
        """Send what there is, as far as the guest has buffers for it."""
        if self._is_sending or self._is_held or not self.is_active:
            return
        if self._replies or self._waiting:
            self._is_sending = True
            try:
                self._fill_buffers(self.queues[_RX])
            finally:
                self._is_sending = False
        if self._tx_waits and len(self._replies) < REPLIES_MAX:
            self._tx_waits = False
            self.transport.serve_again(self.queues[_TX])

    def _fill_buffers(self, queue: "Virtqueue") -> None:
        for chain in queue:
            is_too_small = chain.writable_size < HEADER_SIZE
            size = 0 if is_too_small else self._fill(chain)
            if not size and not is_too_small:
                queue.put_back(chain)
                return
            queue.push(chain, size)
        if queue.more:
            self.transport.serve_again(queue)

    def _fill(self, chain: "Chain") -> int:
        """Put a packet there, if there is one; its size. Connections take turns."""
        while True:
            if self._replies:
                return chain.write(self._replies.popleft())
            if not self._waiting:
                return 0
            connection = next(iter(self._waiting))
            del self._waiting[connection]
            size = 0 if self._comes_too_early(connection) else connection.fill(chain)
            if size:
                self.wait(connection)
                return size

    def _comes_too_early(self, connection: VsockConnection) -> bool:
        """Whether a guest that is through with a reset later would reset it, too."""
        is_new = VIRTIO_VSOCK_OP_REQUEST in connection.due
        return is_new and (self._reset_is_due or self._reset_is_told)

    def _take_events(self, queue: "Virtqueue") -> None:
        """Keep what there is for events; a buffer that comes back was seen to."""
        for chain in queue:
            self._events.append(chain)
            if self._reset_is_told:
                self._reset_is_told = False
                self._waiting |= dict.fromkeys(self._connections.values())
        if self._reset_is_due:
            self._tell_reset(queue)

    def _tell_reset(self, queue: "Virtqueue") -> None:
        """Have the guest drop its connections, as soon as it has a buffer for that."""
        if self._events:
            chain = self._events.pop(0)
            chain.write(_EVENT_ID.pack(VIRTIO_VSOCK_EVENT_TRANSPORT_RESET))
            queue.push(chain)
            self._reset_is_due, self._reset_is_told = False, True
