"""VirtioNet: a network card of the guest's, whose cable is a NetLink of the host's.

It has one pair of queues, and one for control commands, on which Linux spins with its
network locked: each is answered at once. Frames wait in the link while the guest has no
buffers for them, and in the guest while the link has no room.
Sources: VIRTIO 1.3, 5.1; Linux drivers/net/virtio_net.c.
"""

from struct import Struct
from typing import TYPE_CHECKING, Annotated, Final, Protocol

from ..errors import InvalidDevice
from ..state import State
from .device import VirtioDevice

if TYPE_CHECKING:
    from collections.abc import Callable

    from .chain import Chain
    from .queue import Virtqueue

VIRTIO_NET_F_CSUM: Final = 0
VIRTIO_NET_F_GUEST_CSUM: Final = 1
VIRTIO_NET_F_MTU: Final = 3
VIRTIO_NET_F_MAC: Final = 5
VIRTIO_NET_F_GUEST_TSO4: Final = 7
VIRTIO_NET_F_GUEST_TSO6: Final = 8
VIRTIO_NET_F_HOST_TSO4: Final = 11
VIRTIO_NET_F_HOST_TSO6: Final = 12
VIRTIO_NET_F_MRG_RXBUF: Final = 15
VIRTIO_NET_F_STATUS: Final = 16
VIRTIO_NET_F_CTRL_VQ: Final = 17
VIRTIO_NET_F_CTRL_RX: Final = 18
VIRTIO_NET_F_CTRL_MAC_ADDR: Final = 23

VIRTIO_NET_S_LINK_UP: Final = 1
VIRTIO_NET_HDR_F_NEEDS_CSUM: Final = 1
VIRTIO_NET_HDR_GSO_NONE: Final = 0
VIRTIO_NET_HDR_GSO_TCPV4: Final = 1
VIRTIO_NET_HDR_GSO_TCPV6: Final = 4

# Classes of control commands, and those of each
VIRTIO_NET_CTRL_RX: Final = 0
VIRTIO_NET_CTRL_RX_ALLMULTI: Final = 1
VIRTIO_NET_CTRL_MAC: Final = 1
VIRTIO_NET_CTRL_MAC_TABLE_SET: Final = 0
VIRTIO_NET_CTRL_MAC_ADDR_SET: Final = 1
VIRTIO_NET_OK: Final = b"\0"
VIRTIO_NET_ERR: Final = b"\1"

OFFLOADS: Final = (
    1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
)
"""What a link that knows headers may take off the guest."""

QUEUE_SIZE: Final = 256
MAC_SIZE: Final = 6
HEADER_SIZE: Final = 12
FRAME_MIN: Final = 14
"""Bytes of an Ethernet header, without which there is no frame."""
FRAME_MAX: Final = 0xFFFF + 18
"""Bytes of the longest frame: of one IP packet, behind a header with a VLAN's tag."""
MTU_MIN: Final = 68
MTU_MAX: Final = 0xFFFF
COMMAND_MAX: Final = 64 << 10
"""Bytes of a control command that are looked at."""

# flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
_HEADER: Final = Struct("<BBHHHHH")
_CONFIG: Final = Struct("<6sHHH")  # mac, status, max_virtqueue_pairs, mtu
_COUNT: Final = Struct("<I")
# Which feature each needs: VIRTIO 1.3, 5.1.3.1
_NEEDS: Final = {
    VIRTIO_NET_F_GUEST_TSO4: VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO6: VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_HOST_TSO4: VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_TSO6: VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_CTRL_RX: VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_CTRL_MAC_ADDR: VIRTIO_NET_F_CTRL_VQ,
}
_GSO_FEATURE: Final = {
    VIRTIO_NET_HDR_GSO_TCPV4: VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_HDR_GSO_TCPV6: VIRTIO_NET_F_HOST_TSO6,
}


class NetLink(Protocol):
    """The host's end of a cable. No call blocks; all come with the card's lock held.

    So it must not call the card within them, but may from elsewhere, whatever thread.
    """

    has_header: bool
    """Whether frames come and go behind a virtio_net_hdr of 12 bytes. What the guest
    has accepted of OFFLOADS may then be asked for there, and `set_offloads` tells."""

    @property
    def is_up(self) -> bool:
        """Whether the other end is there; `VirtioNet.link_changed` tells of another."""

    def attach(self, card: "VirtioNet", /) -> None:
        """Call `card.on_frames` and `card.on_room` from now on."""

    def is_full(self) -> bool:
        """Whether the next frame has to wait, until `card.on_room` is called."""

    def send(self, frame: list[memoryview], /) -> None:
        """Take all of a frame, unless it is full.

        It is guest memory, and may change while it is looked at.
        """

    def receive(self) -> bytes | None:
        """The next frame, or None: `card.on_frames` is called when there is one."""

    def set_offloads(self, features: int, /) -> None:
        """The driver takes frames of these kinds, which are some of OFFLOADS."""


class NoLink:
    """A cable that isn't plugged in."""

    has_header = False
    is_up = False

    def attach(self, card: "VirtioNet", /) -> None:
        """Nobody will call."""

    def is_full(self) -> bool:
        """Never: what is sent is lost."""
        return False

    def send(self, frame: list[memoryview], /) -> None:
        """To nobody."""

    def receive(self) -> None:
        """Nothing."""

    def set_offloads(self, features: int, /) -> None:
        """For nobody."""


class NetState(State):
    """A VirtioNet's: the address that the driver has given it, and what it was told."""

    mac: Annotated[bytes, range(MAC_SIZE, MAC_SIZE + 1)]
    is_up: bool


class VirtioNet(VirtioDevice):
    """A card with the address `mac` on `link`. Frames that can't be are dropped.

    `mtu` is what the driver is told to use, None: nothing, so that it takes 1500.
    Raises InvalidDevice for an address that isn't one card's, or an MTU that can't be.
    """

    device_type = 1
    queue_sizes = (QUEUE_SIZE, QUEUE_SIZE, 64)

    def __init__(
        self, mac: bytes, link: NetLink | None = None, mtu: int | None = None
    ) -> None:
        if not is_unicast(mac):
            raise InvalidDevice(f"mac {mac.hex(':')!r} is not that of one card")
        if mtu is not None and not MTU_MIN <= mtu <= MTU_MAX:
            raise InvalidDevice(f"mtu {mtu} is not within {MTU_MIN}..{MTU_MAX}")
        self.link: Final[NetLink] = NoLink() if link is None else link
        self.features = (
            1 << VIRTIO_NET_F_MAC
            | 1 << VIRTIO_NET_F_MRG_RXBUF
            | 1 << VIRTIO_NET_F_STATUS
            | 1 << VIRTIO_NET_F_CTRL_VQ
            | 1 << VIRTIO_NET_F_CTRL_RX
            | 1 << VIRTIO_NET_F_CTRL_MAC_ADDR
        )
        if mtu is not None:
            self.features |= 1 << VIRTIO_NET_F_MTU
        if self.link.has_header:
            self.features |= OFFLOADS
        super().__init__()
        self.counters = dict.fromkeys(
            (
                *("rx_frames", "rx_bytes", "rx_dropped"),
                *("tx_frames", "tx_bytes", "tx_dropped"),
            ),
            0,
        )
        """Of what the guest has received and sent; dropped is what couldn't be."""
        self._power_on_mac = self.mac = mac
        self._mtu = mtu or 0
        self._waiting: bytes | None = None
        self._has_news = False  # of the link, from before it was restored
        self._receive, self._transmit, self._control = self.queues
        self._commands: dict[tuple[int, int], Callable[[bytes], bool]] = {
            (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET): self._set_table,
            (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET): self._set_mac,
        }
        for command in range(VIRTIO_NET_CTRL_RX_ALLMULTI + 1):
            self._commands[VIRTIO_NET_CTRL_RX, command] = self._set_mode
        self.link.attach(self)

    # For its link, from any thread and without its lock

    def on_frames(self) -> None:
        """The link has frames, when it had none before."""
        self.serve(self._receive)

    def on_room(self) -> None:
        """The link has room, when it had none before."""
        self.serve(self._transmit)

    def link_changed(self) -> None:
        """The other end has come or gone."""
        self.config_changed()

    # As its driver has it

    def config(self) -> bytes:
        status = VIRTIO_NET_S_LINK_UP if self.link.is_up else 0
        return _CONFIG.pack(self.mac, status, 1, self._mtu)

    def accepts(self, features: int) -> bool:
        return all(
            features >> needed & 1
            for bit, needed in _NEEDS.items()
            if features >> bit & 1
        )

    def activate(self) -> None:
        if self.link.has_header:
            self.link.set_offloads(self.negotiated & OFFLOADS)

    def handle(self, queue: "Virtqueue") -> None:
        if self._has_news:
            self._has_news = False
            self.config_changed()
        if queue is self._receive:
            self._fill(queue)
        elif queue is self._transmit:
            self._send_all(queue)
        elif self.has(VIRTIO_NET_F_CTRL_VQ):
            self._obey(queue)

    # To the guest

    def _fill(self, queue: "Virtqueue") -> None:
        """Give it frames, as long as there are some, and buffers for them.

        One that is too long for what the ring can ever have, or for its buffer where
        one must do, is dropped; else it waits for more buffers.
        """
        frame = self._next_frame()
        if frame is None:
            return
        taken: list[Chain] = []
        room = 0
        most = queue.size if self.has(VIRTIO_NET_F_MRG_RXBUF) else 1
        for chain in queue:
            if not chain.writable_size:
                queue.push(chain)  # nothing will ever fit
                continue
            taken.append(chain)
            room += chain.writable_size
            if room < len(frame) and len(taken) < most:
                continue
            self._give(queue, taken, frame if room >= len(frame) else None)
            taken, room = [], 0
            frame = self._next_frame()
            if frame is None:
                break
        self._waiting = frame
        self._put_back(queue, taken)

    def _next_frame(self) -> bytes | None:
        """With a header; the one that waits, if one does."""
        frame, self._waiting = self._waiting, None
        if frame is not None:
            return frame
        frame = self.link.receive()
        if frame is None or self.link.has_header:
            return frame
        return bytes(HEADER_SIZE) + frame

    def _give(
        self, queue: "Virtqueue", chains: "list[Chain]", frame: bytes | None
    ) -> None:
        """Fill `chains` with a frame that fits, or drop it: None."""
        if frame is None:
            self.counters["rx_dropped"] += 1
            self._put_back(queue, chains)
            return
        header = bytearray(frame[:HEADER_SIZE])
        header[-2:] = len(chains).to_bytes(2, "little")  # num_buffers
        rest = memoryview(header + memoryview(frame)[HEADER_SIZE:])
        for chain in chains:
            rest = rest[chain.write(rest) :]
        queue.push_all([(chain, None) for chain in chains])  # all at once
        self.counters["rx_frames"] += 1
        self.counters["rx_bytes"] += len(frame) - HEADER_SIZE

    @staticmethod
    def _put_back(queue: "Virtqueue", chains: "list[Chain]") -> None:
        for chain in reversed(chains):
            queue.put_back(chain)

    # From the guest

    def _send_all(self, queue: "Virtqueue") -> None:
        for chain in queue:
            if self.link.is_full():
                queue.put_back(chain)
                return
            self._send(chain)
            queue.push(chain)

    def _send(self, chain: "Chain") -> None:
        header = chain.read(HEADER_SIZE)
        size = chain.readable_size
        if not (
            len(header) == HEADER_SIZE
            and FRAME_MIN <= size <= FRAME_MAX
            and self._may_ask(header, size)
        ):
            self.counters["tx_dropped"] += 1
            return
        frame = chain.readable
        if self.link.has_header:
            frame = [memoryview(header), *frame]
        self.link.send(frame)
        self.counters["tx_frames"] += 1
        self.counters["tx_bytes"] += size

    def _may_ask(self, header: bytes, size: int) -> bool:
        """Whether it asks for no more than was agreed on, within its frame."""
        fields = _HEADER.unpack(header)
        flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, _ = fields
        has_sum = flags & VIRTIO_NET_HDR_F_NEEDS_CSUM > 0
        if has_sum and not (
            self.has(VIRTIO_NET_F_CSUM) and csum_start + csum_offset + 2 <= size
        ):
            return False
        if gso_type == VIRTIO_NET_HDR_GSO_NONE:
            return True
        feature = _GSO_FEATURE.get(gso_type)
        return (
            feature is not None
            and self.has(feature)
            and has_sum
            and gso_size > 0
            and hdr_len <= size
        )

    # Control commands

    def _obey(self, queue: "Virtqueue") -> None:
        """Answer each, for Linux waits for it, busily."""
        for chain in queue:
            command = chain.read(COMMAND_MAX)
            whole = not chain.readable_size
            act = self._commands.get((command[0], command[1])) if command[1:] else None
            done = whole and act is not None and act(command[2:])
            chain.write(VIRTIO_NET_OK if done else VIRTIO_NET_ERR)
            queue.push(chain)

    def _set_mode(self, data: bytes) -> bool:
        """Promiscuous or not: it gets all frames, and sorts them out itself."""
        return self.has(VIRTIO_NET_F_CTRL_RX) and len(data) == 1

    def _set_table(self, data: bytes) -> bool:
        """Which addresses it wants frames for, twice; likewise."""
        for _ in range(2):
            if len(data) < _COUNT.size:
                return False
            (count,) = _COUNT.unpack_from(data)
            if count > (len(data) - _COUNT.size) // MAC_SIZE:
                return False
            data = data[_COUNT.size + count * MAC_SIZE :]
        return self.has(VIRTIO_NET_F_CTRL_RX) and not data

    def _set_mac(self, data: bytes) -> bool:
        if not (self.has(VIRTIO_NET_F_CTRL_MAC_ADDR) and is_unicast(data)):
            return False
        self.mac = data
        return True

    # Its life

    def reset_queue(self, queue: "Virtqueue") -> None:
        if queue is self._receive:
            self._waiting = None

    def reset(self) -> None:
        self.mac = self._power_on_mac
        self._waiting = None
        self._has_news = False
        if self.link.has_header:
            self.link.set_offloads(0)

    def state(self) -> NetState:
        """Without frames under way: networks lose some. `is_up` is what was told."""
        return NetState(mac=self.mac, is_up=self.link.is_up is not self._has_news)

    def restore(self, state: State | None) -> None:
        """Go on with today's link, as which the driver finds it."""
        saved = NetState.of(state)
        saved.require(is_unicast(saved.mac), "mac is that of one card")
        self.mac = saved.mac
        self._waiting = None
        if self.is_active:
            self.activate()
        # Told when queues are looked at: its transport isn't what it was before.
        self._has_news = saved.is_up != self.link.is_up


def is_unicast(mac: bytes) -> bool:
    """Whether that is an address that one card can have."""
    return len(mac) == MAC_SIZE and not mac[0] & 1 and any(mac)
