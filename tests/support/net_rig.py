"""A VirtioNet on a cable that the test holds, and what its driver would say."""

from struct import pack
from typing import Final

from support.virtio_device_rig import DeviceRig
from support.virtio_driver import Request
from vmm.devices.virtio.net import VirtioNet

MAC: Final = bytes.fromhex("020000000001")
ALL: Final = (1 << 24) - 1
MERGES: Final = 1 << 15
RECEIVE, TRANSMIT, CONTROL = range(3)
HEADER: Final = bytes(12)


class HeldLink:
    """Keeps what is sent in `sent`; `frames` are what comes."""

    def __init__(self, has_header: bool = False) -> None:
        self.has_header = has_header
        self.is_up = True
        self.full = False
        self.frames: list[bytes] = []
        self.sent: list[bytes] = []
        self.offloads: list[int] = []
        self.asked = 0

    def attach(self, card: VirtioNet) -> None:
        self.card = card

    def is_full(self) -> bool:
        return self.full

    def send(self, frame: list[memoryview]) -> None:
        self.sent.append(b"".join(frame))

    def receive(self) -> bytes | None:
        self.asked += 1
        return self.frames.pop(0) if self.frames else None

    def set_offloads(self, features: int) -> None:
        self.offloads.append(features)


class NetRig(DeviceRig):
    """A started one, whose driver accepts `features` of what it offers."""

    def __init__(
        self,
        features: int = ALL,
        *,
        has_header: bool = False,
        mtu: int | None = None,
        size: int = 16,
    ) -> None:
        self.link = HeldLink(has_header)
        self.net = VirtioNet(MAC, self.link, mtu)
        super().__init__(self.net)
        self.start(features & self.net.features, size)

    def transmit(self, *pieces: bytes) -> Request:
        return self.send(TRANSMIT, *pieces)

    def give(self, *rooms: int) -> list[Request]:
        """Buffers for frames, each of them a chain."""
        return [self.drivers[RECEIVE].send([], [room]) for room in rooms]

    def arrive(self, *frames: bytes) -> None:
        self.link.frames += frames
        self.net.on_frames()
        self.collect()

    def command(self, kind: int, command: int, data: bytes = b"") -> Request:
        return self.send(CONTROL, pack("<BB", kind, command), data, room=1)


def a_header(
    flags: int = 0,
    gso_type: int = 0,
    hdr_len: int = 0,
    gso_size: int = 0,
    csum_start: int = 0,
    csum_offset: int = 0,
) -> bytes:
    """A virtio_net_hdr."""
    return pack(
        "<BBHHHHH", flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, 0
    )
