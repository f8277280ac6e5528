"""Messages: their numbers and forms, and a socket that they come from in one piece."""

import os
import socket
from collections.abc import Sequence
from struct import Struct
from typing import Final

from ..errors import VmmError

GET_FEATURES: Final = 1
SET_FEATURES: Final = 2
SET_OWNER: Final = 3
RESET_OWNER: Final = 4
SET_MEM_TABLE: Final = 5
SET_VRING_NUM: Final = 8
SET_VRING_ADDR: Final = 9
SET_VRING_BASE: Final = 10
GET_VRING_BASE: Final = 11
SET_VRING_KICK: Final = 12
SET_VRING_CALL: Final = 13
SET_VRING_ERR: Final = 14
GET_PROTOCOL_FEATURES: Final = 15
SET_PROTOCOL_FEATURES: Final = 16
GET_QUEUE_NUM: Final = 17
SET_VRING_ENABLE: Final = 18
SET_BACKEND_REQ_FD: Final = 21
GET_CONFIG: Final = 24
SET_CONFIG: Final = 25
RESET_DEVICE: Final = 34
SET_STATUS: Final = 39
GET_STATUS: Final = 40

BACKEND_CONFIG_CHANGE_MSG: Final = 2

VHOST_USER_F_PROTOCOL_FEATURES: Final = 30
# Protocol features, as bit numbers
PROTOCOL_F_MQ: Final = 0
PROTOCOL_F_REPLY_ACK: Final = 3
PROTOCOL_F_BACKEND_REQ: Final = 5
PROTOCOL_F_CONFIG: Final = 9
PROTOCOL_F_RESET_DEVICE: Final = 13
PROTOCOL_F_STATUS: Final = 16

VERSION: Final = 1
REPLY: Final = 1 << 2
NEED_REPLY: Final = 1 << 3
_VERSION_MASK: Final = 3

HEADER: Final = Struct("=III")  # request, flags, size
U64: Final = Struct("=Q")
VRING_STATE: Final = Struct("=II")  # index, num
VRING_ADDR: Final = Struct("=IIQQQQ")  # index, flags, descriptor, used, available, log
MEMORY: Final = Struct("=II")  # number of regions, padding
REGION: Final = Struct("=QQQQ")  # guest address, size, user address, mmap offset
CONFIG: Final = Struct("=III")  # offset, size, flags

VRING_INDEX: Final = 0xFF  # of a file descriptor's u64
VRING_NO_FD: Final = 1 << 8

MOST_REGIONS: Final = 8
MOST_CONFIG: Final = 256
MOST_PAYLOAD: Final = max(
    MEMORY.size + MOST_REGIONS * REGION.size, CONFIG.size + MOST_CONFIG
)
MOST_FDS: Final = 8


class ProtocolError(VmmError):
    """The other side has sent what it may not, or nothing where something is due."""


class Message:
    """A request with its payload, and the descriptors that came with it.

    Who takes a descriptor takes it out of `fds`; `close` closes the others.
    """

    def __init__(
        self, request: int, flags: int, payload: bytes, fds: Sequence[int] = ()
    ) -> None:
        self.request, self.flags, self.payload = request, flags, payload
        self.fds = list(fds)

    def unpack(self, form: Struct) -> tuple[int, ...]:
        """All of the payload. Raises ProtocolError for one of another size."""
        if len(self.payload) != form.size:
            raise ProtocolError(f"{len(self.payload)} bytes, not {form.size}")
        return form.unpack(self.payload)

    def take_fd(self) -> int:
        """The one descriptor. Raises ProtocolError if there are more, or none."""
        if len(self.fds) != 1:
            raise ProtocolError(f"{len(self.fds)} descriptors, not 1")
        return self.fds.pop()

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


class Channel:
    """A connected Unix stream socket, made non-blocking, for messages."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._data = bytearray()
        self._fds: list[int] = []

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> Message | None:
        """The next message, once all of it is there.

        Raises EOFError at the end of all messages, ProtocolError for what is none.
        """
        if not self._fill(HEADER.size):
            return None
        request, flags, size = HEADER.unpack_from(self._data)
        if flags & _VERSION_MASK != VERSION:
            raise ProtocolError(f"flags {flags:#x} are of no version that we know")
        if size > MOST_PAYLOAD:
            raise ProtocolError(f"request {request} has {size} bytes: too many")
        if not self._fill(HEADER.size + size):
            return None
        message = Message(request, flags, bytes(self._data[HEADER.size :]), self._fds)
        self._data, self._fds = bytearray(), []
        return message

    def _fill(self, size: int) -> bool:
        """Have at least so many bytes; False as long as they aren't there."""
        while (missing := size - len(self._data)) > 0:
            try:
                data, fds, flags, _ = socket.recv_fds(
                    self._socket, missing, MOST_FDS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                return False
            except OSError:  # reset by the other side
                raise EOFError from None
            self._fds += fds
            if flags & socket.MSG_CTRUNC or len(self._fds) > MOST_FDS:
                raise ProtocolError(f"more than {MOST_FDS} descriptors")
            if not data:
                if self._data:
                    raise ProtocolError("the connection ends within a message")
                raise EOFError
            self._data += data
        return True

    def send(
        self,
        request: int,
        flags: int = 0,
        payload: bytes = b"",
        fds: Sequence[int] = (),
    ) -> None:
        """Send a message, with descriptors, which stay ours.

        Raises ProtocolError if there is no room for it, EOFError if nobody is there.
        """
        data = HEADER.pack(request, VERSION | flags, len(payload)) + payload
        try:
            sent = socket.send_fds(self._socket, [data], fds, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except (BrokenPipeError, ConnectionResetError):
            raise EOFError from None
        except OSError as error:
            raise ProtocolError(f"no message can be sent: {error.strerror}") from None
        if sent < len(data):
            raise ProtocolError("it doesn't read what we send")

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()
        while self._fds:
            os.close(self._fds.pop())
