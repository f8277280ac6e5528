"""FrontEnd: our end of a connection to a backend, as QEMU would speak to it."""

import select
import time
from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Final

from . import protocol
from .protocol import Channel, ProtocolError

if TYPE_CHECKING:
    import socket

    from ..memory import GuestMemory

REPLY_S: Final = 10.0
"""For an answer: a program that starts takes a part of a second."""
_WANTED: Final = sum(
    1 << bit
    for bit in (
        protocol.PROTOCOL_F_MQ,
        protocol.PROTOCOL_F_REPLY_ACK,
        protocol.PROTOCOL_F_BACKEND_REQ,
        protocol.PROTOCOL_F_CONFIG,
        protocol.PROTOCOL_F_RESET_DEVICE,
    )
)


class FrontEnd:
    """What a backend can be told and asked; each call waits for it, up to REPLY_S.

    One at a time. All raise ProtocolError for a backend that breaks the rules, doesn't
    answer or says no, and EOFError for one that is gone.
    """

    def __init__(self, sock: "socket.socket") -> None:
        """Begin with a backend that was just connected. Takes `sock`."""
        self._channel = Channel(sock)
        self._protocol_features = 0
        self.features = 0
        """All that the backend offers."""
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        self._send(protocol.SET_OWNER)
        self.features = self._ask_u64(protocol.GET_FEATURES)
        if not self.features >> protocol.VHOST_USER_F_PROTOCOL_FEATURES & 1:
            raise ProtocolError("it is too old: it has no protocol features")
        wanted = self._ask_u64(protocol.GET_PROTOCOL_FEATURES) & _WANTED
        self._send(protocol.SET_PROTOCOL_FEATURES, protocol.U64.pack(wanted))
        self._protocol_features = wanted

    def fileno(self) -> int:
        return self._channel.fileno()

    def has(self, bit: int) -> bool:
        """Whether both sides have a protocol feature."""
        return bool(self._protocol_features >> bit & 1)

    def close(self) -> None:
        """Idempotent."""
        self._channel.close()

    # What there is

    def queue_num(self) -> int | None:
        """How many queues it has at most, if it says so."""
        if not self.has(protocol.PROTOCOL_F_MQ):
            return None
        return self._ask_u64(protocol.GET_QUEUE_NUM)

    def config(self, size: int) -> bytes:
        """So much of its configuration space."""
        asked = protocol.CONFIG.pack(0, size, 0) + bytes(size)
        reply = self._ask(protocol.GET_CONFIG, asked)
        if len(reply) != len(asked):
            raise ProtocolError(f"it has no {size} bytes of configuration")
        return reply[protocol.CONFIG.size :]

    def write_config(self, offset: int, data: bytes) -> None:
        """As its driver does."""
        head = protocol.CONFIG.pack(offset, len(data), 0)
        self._tell(protocol.SET_CONFIG, head + data)

    def take_requests(self, fd: int) -> None:
        """Have it send requests of its own to the other end of the socket `fd`."""
        self._tell(protocol.SET_BACKEND_REQ_FD, fds=[fd])

    # What a driver has set up

    def set_features(self, features: int) -> None:
        """Those that the driver has accepted."""
        own = 1 << protocol.VHOST_USER_F_PROTOCOL_FEATURES
        self._tell(protocol.SET_FEATURES, protocol.U64.pack(features | own))

    def set_memory(self, memory: "GuestMemory") -> None:
        """All of it; its addresses for the backend are those of our mapping."""
        fd = memory.share()
        table = protocol.MEMORY.pack(len(memory.regions), 0)
        for region in memory.regions:
            user_addr = memory.host_addr(region)
            table += protocol.REGION.pack(
                region.guest_addr, region.size, user_addr, region.offset
            )
        self._tell(protocol.SET_MEM_TABLE, table, [fd] * len(memory.regions))

    def set_vring(
        self, index: int, size: int, base: int, user_addrs: tuple[int, int, int]
    ) -> None:
        """Where ring `index` goes on, and is: descriptors, used and available ring."""
        state = protocol.VRING_STATE
        self._tell(protocol.SET_VRING_NUM, state.pack(index, size))
        self._tell(protocol.SET_VRING_BASE, state.pack(index, base))
        addresses = protocol.VRING_ADDR.pack(index, 0, *user_addrs, 0)
        self._tell(protocol.SET_VRING_ADDR, addresses)

    def start_vring(self, index: int, call_fd: int, err_fd: int, kick_fd: int) -> None:
        """Have it served, and signal these eventfds, the last of which is for it."""
        for request, fd in (
            (protocol.SET_VRING_CALL, call_fd),
            (protocol.SET_VRING_ERR, err_fd),
            (protocol.SET_VRING_KICK, kick_fd),
        ):
            self._tell(request, protocol.U64.pack(index), [fd])
        enable = protocol.VRING_STATE.pack(index, 1)
        self._tell(protocol.SET_VRING_ENABLE, enable)

    def stop_vring(self, index: int) -> int:
        """Where it is to go on from."""
        asked = protocol.VRING_STATE.pack(index, 0)
        reply = self._unpack(protocol.VRING_STATE, protocol.GET_VRING_BASE, asked)
        return reply[1]

    def reset_device(self) -> None:
        """Forget its driver, if it knows how to."""
        if self.has(protocol.PROTOCOL_F_RESET_DEVICE):
            self._tell(protocol.RESET_DEVICE)

    # Messages

    def _send(
        self,
        request: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        flags: int = 0,
    ) -> None:
        self._channel.send(request, flags, payload, fds)

    def _tell(
        self, request: int, payload: bytes = b"", fds: Sequence[int] = ()
    ) -> None:
        """Send, and wait until it is done, where the backend can say so."""
        if not self.has(protocol.PROTOCOL_F_REPLY_ACK):
            self._send(request, payload, fds)
            return
        self._send(request, payload, fds, protocol.NEED_REPLY)
        (refusal,) = self._reply(request, protocol.U64)
        if refusal:
            raise ProtocolError(f"it refuses request {request}")

    def _ask(self, request: int, payload: bytes = b"") -> bytes:
        self._send(request, payload)
        return self._receive(request)

    def _unpack(
        self, form: Struct, request: int, payload: bytes = b""
    ) -> tuple[int, ...]:
        self._send(request, payload)
        return self._reply(request, form)

    def _ask_u64(self, request: int) -> int:
        (value,) = self._unpack(protocol.U64, request)
        return value

    def _reply(self, request: int, form: Struct) -> tuple[int, ...]:
        reply = self._receive(request)
        if len(reply) != form.size:
            raise ProtocolError(f"request {request} is answered by {len(reply)} bytes")
        return form.unpack(reply)

    def _receive(self, request: int) -> bytes:
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        end = time.monotonic() + REPLY_S
        while (message := self._channel.receive()) is None:
            left = end - time.monotonic()
            if left <= 0:
                raise ProtocolError(f"request {request} isn't answered")
            poll.poll(left * 1000)
        try:
            if message.request != request or not message.flags & protocol.REPLY:
                raise ProtocolError(
                    f"request {request} is answered by one, {message.request}"
                )
            return message.payload
        finally:
            message.close()
