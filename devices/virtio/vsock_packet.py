"""Packets of virtio-vsock: VIRTIO 1.3, 5.10.6; Linux include/uapi/linux/virtio_vsock.h.

A packet is a header, and as many bytes as that says. Both sides count what they have
sent in `tx_cnt` and what was taken out of their buffer in `fwd_cnt`, modulo 2^32.
"""

from struct import Struct
from typing import Final, NamedTuple, Self

VMADDR_CID_HOST: Final = 2

VIRTIO_VSOCK_TYPE_STREAM: Final = 1
VIRTIO_VSOCK_TYPE_SEQPACKET: Final = 2

VIRTIO_VSOCK_OP_REQUEST: Final = 1
VIRTIO_VSOCK_OP_RESPONSE: Final = 2
VIRTIO_VSOCK_OP_RST: Final = 3
VIRTIO_VSOCK_OP_SHUTDOWN: Final = 4
VIRTIO_VSOCK_OP_RW: Final = 5
VIRTIO_VSOCK_OP_CREDIT_UPDATE: Final = 6
VIRTIO_VSOCK_OP_CREDIT_REQUEST: Final = 7

# Flags of SHUTDOWN: what its sender won't do any more.
VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE: Final = 1
VIRTIO_VSOCK_SHUTDOWN_F_SEND: Final = 2
SHUTDOWN_BOTH: Final = 3
# And of RW, for SEQPACKET: a message ends with it.
VIRTIO_VSOCK_SEQ_EOM: Final = 1

VIRTIO_VSOCK_MAX_PKT_BUF_SIZE: Final = 64 << 10
"""Bytes of data that one packet has at most, as Linux has it on both sides."""

COUNT_MASK: Final = 0xFFFF_FFFF
"""Of `tx_cnt` and `fwd_cnt`."""

HEADER: Final = Struct("<QQIIIHHIII")
"""The fields of a Packet, in a buffer."""
HEADER_SIZE: Final = HEADER.size


class Packet(NamedTuple):
    """A packet's header, with the specification's names but for `kind`, its type."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    size: int
    kind: int
    op: int
    flags: int = 0
    buf_alloc: int = 0
    fwd_cnt: int = 0

    @classmethod
    def of(cls, header: bytes) -> Self:
        """What these `HEADER_SIZE` bytes say."""
        return cls._make(HEADER.unpack(header))

    def to_bytes(self) -> bytes:
        """As it stands in a buffer."""
        return HEADER.pack(*self)

    def refusal(self) -> "Packet":
        """The RST that answers it."""
        return Packet(
            self.dst_cid,
            self.src_cid,
            self.dst_port,
            self.src_port,
            0,
            self.kind,
            VIRTIO_VSOCK_OP_RST,
        )
