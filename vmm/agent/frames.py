"""Frames on the line between us and vmm-agent; guest/linux/agent/frame.h has the rest.

A frame is a body in COBS, which has no zero byte, and a zero behind it. So a zero ends
whatever was damaged or cut off, and the next frame is whole: no length has to be
believed, and a HELLO is seen in the middle of somebody else's frame.

Source of COBS: Cheshire and Baker, "Consistent Overhead Byte Stuffing", 1999.
"""

import struct
import zlib
from typing import Final, NamedTuple

PAYLOAD_MAX: Final = 2048
_HEAD: Final = struct.Struct("<BBH")  # type, sequence, channel
_CHECK: Final = struct.Struct("<I")  # CRC-32 of all before it
BODY_MAX: Final = _HEAD.size + PAYLOAD_MAX + _CHECK.size
WIRE_MAX: Final = BODY_MAX + BODY_MAX // 254 + 1
END: Final = b"\0"
_RUN: Final = 254  # bytes without a zero that one code stands for

# From us
HELLO: Final = 1
RUN_MORE: Final = 2
RUN: Final = 3
INPUT: Final = 4
INPUT_END: Final = 5
CREDIT: Final = 6
SIGNAL: Final = 7
WINDOW: Final = 8
CLOSE: Final = 9
PING: Final = 10
# From the guest
READY: Final = 0x81
WELCOME: Final = 0x82
STARTED: Final = 0x83
FAILED: Final = 0x84
OUTPUT: Final = 0x85
ERRORS: Final = 0x86
CHANGED: Final = 0x87
INPUT_CREDIT: Final = 0x88
TAKEN: Final = 0x89
LOST: Final = 0x8A
PONG: Final = 0x8B


class Frame(NamedTuple):
    """One that was whole."""

    type: int
    sequence: int
    channel: int
    payload: bytes


def encode(kind: int, sequence: int, channel: int, payload: bytes = b"") -> bytes:
    """The bytes for the line."""
    body = _HEAD.pack(kind, sequence & 0xFF, channel) + payload
    return _stuffed(body + _CHECK.pack(zlib.crc32(body))) + END


def decode(wire: bytes) -> Frame | None:
    """What stands before a zero; None if it is damaged."""
    body = _unstuffed(wire)
    if body is None or not _HEAD.size + _CHECK.size <= len(body) <= BODY_MAX:
        return None
    body, check = body[: -_CHECK.size], body[-_CHECK.size :]
    if _CHECK.pack(zlib.crc32(body)) != check:
        return None
    kind, sequence, channel = _HEAD.unpack_from(body)
    return Frame(kind, sequence, channel, body[_HEAD.size :])


def _stuffed(body: bytes) -> bytes:
    parts = []
    for run in body.split(END):
        while len(run) >= _RUN:
            parts += [b"\xff", run[:_RUN]]
            run = run[_RUN:]
        parts += [bytes((len(run) + 1,)), run]
    return b"".join(parts)


def _unstuffed(wire: bytes) -> bytes | None:
    parts = []
    at, end = 0, len(wire)
    while at < end:
        code = wire[at]
        if not code or at + code > end:
            return None
        parts.append(wire[at + 1 : at + code])
        at += code
        if code <= _RUN and at < end:
            parts.append(END)
    return b"".join(parts)


class Decoder:
    """Finds frames in what a guest sends, which may be anything. Keeps WIRE_MAX."""

    def __init__(self) -> None:
        self.damaged = 0
        """Pieces between two zeros that were no frames."""
        self._rest = b""
        self._too_long = False

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that end in `data`."""
        if END not in data:
            self._keep(data)
            return []
        first, *others, rest = data.split(END)
        self._keep(first)
        pieces = [None if self._too_long else self._rest, *others]
        self._rest, self._too_long = b"", False
        self._keep(rest)
        frames = []
        for piece in pieces:
            if piece == b"":
                continue
            frame = None if piece is None else decode(piece)
            if frame is None:
                self.damaged += 1
            else:
                frames.append(frame)
        return frames

    def _keep(self, data: bytes) -> None:
        if self._too_long or len(self._rest) + len(data) > WIRE_MAX:
            self._rest, self._too_long = b"", True
        else:
            self._rest += data
