"""VsockConnection: one connection between a guest's port and one of the host's."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Protocol

from .vsock_packet import (
    COUNT_MASK,
    HEADER,
    HEADER_SIZE,
    SHUTDOWN_BOTH,
    VIRTIO_VSOCK_MAX_PKT_BUF_SIZE,
    VIRTIO_VSOCK_OP_CREDIT_REQUEST,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE,
    VIRTIO_VSOCK_OP_REQUEST,
    VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_RW,
    VIRTIO_VSOCK_OP_SHUTDOWN,
    VIRTIO_VSOCK_SEQ_EOM,
    VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE,
    VIRTIO_VSOCK_SHUTDOWN_F_SEND,
    VIRTIO_VSOCK_TYPE_SEQPACKET,
    VMADDR_CID_HOST,
    Packet,
)

if TYPE_CHECKING:
    from .chain import Chain

BUF_ALLOC: Final = 256 << 10
"""Bytes that a guest may be ahead of a host's program; Linux' own default, too."""
_UPDATE: Final = BUF_ALLOC // 4
"""After so many bytes that are taken out of it the guest is told, and of less where it
has little left: it might be in the middle of a message as large as all of it."""

# What a guest may be due to be told, in this order; data comes before the last.
_OPS: Final = (
    VIRTIO_VSOCK_OP_REQUEST,
    VIRTIO_VSOCK_OP_RESPONSE,
    VIRTIO_VSOCK_OP_CREDIT_UPDATE,
    VIRTIO_VSOCK_OP_CREDIT_REQUEST,
    VIRTIO_VSOCK_OP_SHUTDOWN,
)


class VsockEnd(Protocol):
    """The host's end of a connection.

    Each call has the device's lock held, and none may block. They may call
    the connection's methods for the host in turn.
    """

    def established(self) -> None:
        """The connection is there: both sides may send. Input is to be read."""

    def take(self, views: Sequence[memoryview], *, ends_message: bool) -> int:
        """Take all these bytes of the guest's, whose memory they are in.

        Returns how many bytes were passed on, of these and of earlier ones; for others,
        BUF_ALLOC of them at most, `VsockConnection.passed_on` is called later.
        """

    def read_into(self, views: Sequence[memoryview]) -> tuple[int, bool] | None:
        """Put input there: how many bytes, and whether a message ends with them.

        None: there is nothing now; `VsockConnection.readable` is called when there is.
        """

    def hold_input(self) -> None:
        """Don't call `readable` before `read_into` was called once more."""

    def shut(self, flags: int) -> None:
        """The guest won't receive any more (1), won't send any more (2), or both."""

    def close(self) -> None:
        """The connection is gone. What was taken may still be passed on."""


class Owner(Protocol):
    """What a connection needs of its device, with the lock held."""

    @property
    def guest_cid(self) -> int:
        """The guest's address."""

    def working(self) -> AbstractContextManager[bool | None]:
        """The device's lock."""

    def wait(self, connection: "VsockConnection", /) -> None:
        """It may have something for the guest."""

    def is_waiting(self, connection: "VsockConnection", /) -> bool:
        """Whether it may have more for the guest, that is kept waiting."""

    def send_of(self, connection: "VsockConnection", /) -> None:
        """Send what it has for the guest, as far as there are buffers."""

    def abort(self, connection: "VsockConnection", /) -> None:
        """Reset it: neither side has it any more."""

    def forget(self, connection: "VsockConnection", /) -> None:
        """It is gone, for the host's end, too."""


class VsockConnection:
    """One of a VirtioVsock's: `end` is the host's, once it has one.

    It has the device's lock held in all methods, those for the host take it.
    """

    end: VsockEnd

    def __init__(
        self, device: Owner, guest_port: int, host_port: int, kind: int
    ) -> None:
        self._device = device
        self.guest_port: Final = guest_port
        self.host_port: Final = host_port
        self.kind: Final = kind
        """VIRTIO_VSOCK_TYPE_STREAM or _SEQPACKET."""
        self.is_established = False
        self.is_open = True
        """Whether the device has it still."""
        self.due: set[int] = set()
        """The packets that the guest is due to get, by their ops."""
        self._shut = 0  # what the host won't do any more
        self._guest_shut = 0
        self._buf_alloc = 0  # the guest's
        self._tx_cnt = 0
        self._peer_fwd_cnt = 0
        self._is_starved = False  # of credit
        self._message = 0  # bytes of a message that was begun
        self._rx_cnt = 0
        self._fwd_cnt = 0
        self._told_fwd_cnt = 0

    # For the host

    def working(self) -> AbstractContextManager[bool | None]:
        """The device's lock, for its end."""
        return self._device.working()

    def readable(self) -> None:
        """There is input at the end."""
        with self._device.working():
            if self.is_open:
                self._device.send_of(self)
                if self._device.is_waiting(self):
                    self.end.hold_input()

    def passed_on(self, size: int) -> None:
        """So many more bytes of the guest's are out of the end's hands."""
        with self._device.working():
            if self.is_open:
                self._count(size)
                if self.due:
                    self._device.send_of(self)

    def shut(self, flags: int) -> None:
        """The host won't receive any more (1), or send any more (2), or both."""
        with self._device.working():
            if self.is_open and flags & ~self._shut:
                self._shut |= flags
                self.due.add(VIRTIO_VSOCK_OP_SHUTDOWN)
                self._device.send_of(self)

    def reset(self) -> None:
        """End it at once."""
        with self._device.working():
            if self.is_open:
                self._device.abort(self)

    # For the device

    def header(self, op: int, flags: int = 0, size: int = 0) -> bytes:
        """Of a packet to the guest, which tells it of our buffer."""
        self.due.discard(VIRTIO_VSOCK_OP_CREDIT_UPDATE)
        self._told_fwd_cnt = self._fwd_cnt
        return HEADER.pack(
            VMADDR_CID_HOST,
            self._device.guest_cid,
            self.host_port,
            self.guest_port,
            size,
            self.kind,
            op,
            flags,
            BUF_ALLOC,
            self._fwd_cnt & COUNT_MASK,
        )

    def credit(self, packet: Packet) -> bool:
        """Note how much room the guest has; whether that can be true."""
        passed_on = packet.fwd_cnt - self._peer_fwd_cnt & COUNT_MASK
        if passed_on > self._tx_cnt - self._peer_fwd_cnt:
            return False
        self._peer_fwd_cnt += passed_on
        self._buf_alloc = packet.buf_alloc
        if self._is_starved and self._room() > 0:
            self._is_starved = False
            self._device.wait(self)
        return True

    def _room(self) -> int:
        """Bytes that the guest has room for; less than none, if it has changed that."""
        return self._buf_alloc - (self._tx_cnt - self._peer_fwd_cnt)

    def establish(self) -> None:
        """It is there, for both sides."""
        self.is_established = True
        self.end.established()

    def receive(self, packet: Packet, chain: "Chain") -> bool:
        """Take the data behind a header; False: the guest may not send it."""
        size = packet.size
        outstanding = self._rx_cnt - self._fwd_cnt
        if (
            not self.is_established
            or self._guest_shut & VIRTIO_VSOCK_SHUTDOWN_F_SEND
            or size > BUF_ALLOC - outstanding
        ):
            return False
        views = chain.readable
        if chain.readable_size != size:
            views = [memoryview(chain.read(size))]
        self._rx_cnt += size
        if self._shut & VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE:
            self._count(size)
            return True
        ends_message = (
            self.kind == VIRTIO_VSOCK_TYPE_SEQPACKET
            and packet.flags & VIRTIO_VSOCK_SEQ_EOM > 0
        )
        self._count(self.end.take(views, ends_message=ends_message))
        return True

    def _count(self, size: int) -> None:
        self._fwd_cnt += size
        news = self._fwd_cnt - self._told_fwd_cnt
        room = BUF_ALLOC - (self._rx_cnt - self._told_fwd_cnt)  # as the guest knows it
        if news >= _UPDATE or (news and room < VIRTIO_VSOCK_MAX_PKT_BUF_SIZE):
            self.due.add(VIRTIO_VSOCK_OP_CREDIT_UPDATE)
            self._device.wait(self)

    def shut_by_guest(self, flags: int) -> bool:
        """The guest won't do that any more; whether it is through with it all."""
        self._guest_shut |= flags & SHUTDOWN_BOTH
        self.end.shut(self._guest_shut)
        return self._guest_shut == SHUTDOWN_BOTH

    def fill(self, chain: "Chain") -> int:
        """Put a packet for the guest there; its size, 0 if there is none now."""
        if self.due:
            return self._fill_with_due(chain)
        if not self._may_send():
            return 0
        room = min(
            self._room(),
            chain.writable_size - HEADER_SIZE,
            VIRTIO_VSOCK_MAX_PKT_BUF_SIZE,
        )
        if room <= 0:
            return self._starve(chain)
        got = self.end.read_into(_behind_header(chain.writable, room))
        if got is None:
            return self.fill(chain) if self.due and self.is_open else 0
        size, ends_message = got
        self._tx_cnt += size
        self._message = 0 if ends_message else self._message + size
        flags = VIRTIO_VSOCK_SEQ_EOM if ends_message else 0
        return chain.write(self.header(VIRTIO_VSOCK_OP_RW, flags, size)) + size

    def _fill_with_due(self, chain: "Chain") -> int:
        op = next(op for op in _OPS if op in self.due)
        self.due.discard(op)
        flags = self._shut if op == VIRTIO_VSOCK_OP_SHUTDOWN else 0
        size = chain.write(self.header(op, flags))
        if flags == SHUTDOWN_BOTH:  # what the guest says to that is of no interest
            self._device.forget(self)
        return size

    def _may_send(self) -> bool:
        return (
            self.is_established
            and not self._shut & VIRTIO_VSOCK_SHUTDOWN_F_SEND
            and not self._guest_shut & VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE
        )

    def _starve(self, chain: "Chain") -> int:
        """There is no room for data: wait for some, and once ask for it."""
        self.end.hold_input()
        if (
            self.kind == VIRTIO_VSOCK_TYPE_SEQPACKET
            and self._message
            and self._message >= self._buf_alloc
        ):  # of which it can't take anything out before it has all
            self._device.abort(self)
            return 0
        if self._is_starved:
            return 0
        self._is_starved = True
        self.due.add(VIRTIO_VSOCK_OP_CREDIT_REQUEST)
        return self.fill(chain)


def _behind_header(writable: list[memoryview], room: int) -> list[memoryview]:
    """`room` bytes of these buffers, after a header's."""
    views, skip = [], HEADER_SIZE
    for view in writable:
        if skip >= len(view):
            skip -= len(view)
            continue
        part = view[skip : skip + room]
        views.append(part)
        skip, room = 0, room - len(part)
        if not room:
            break
    return views
