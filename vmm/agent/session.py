"""Session: what a host and an agent know of each other, from one HELLO to the next."""

import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from ..errors import GuestEnded, VmmError
from ..foreign_text import printable
from ..result import RunResult
from . import frames
from .channel import Channel
from .frames import Decoder, Frame

VERSION: Final = 1
UNASKED_MAX: Final = 64  # frames behind a HELLO that wasn't answered yet
WIRE_WINDOW: Final = 48 << 10  # bytes that the guest may not have taken yet; ttys lose
OOPS_LINES: Final = 20  # of a kernel's last words, in a message

_HELLO: Final = struct.Struct("<BI32sQ")
_WELCOME: Final = struct.Struct("<BI")
_NUMBER: Final = struct.Struct("<I")

_LOST: Final = (
    "guest: what its agent sent, or was sent, was damaged on the way: does somebody "
    "else in the guest use ttyS1?"
)


class Wire(Protocol):
    """What carries bytes to the guest."""

    def send(self, data: bytes) -> None:
        """Send as soon as the guest takes it."""

    def clear(self) -> None:
        """Forget what it hasn't got."""

    @property
    def waiting(self) -> int:
        """Bytes that it hasn't got."""


class Session:
    """Speaks with the agent for all commands. Thread-safe, by one lock: `changed`.

    At a boot the agent speaks first, READY, and HELLO follows. A clone's agent is in a
    session with another host: `greet` says HELLO at once. Commands needn't wait for the
    answer: what is sent before it is sent again if an agent says READY, and the agent
    does nothing twice.
    """

    def __init__(self, wire: Wire) -> None:
        self.changed = threading.Condition()
        self.lost = 0
        """Gaps in what came, or went."""
        self.dropped: deque[Channel] = deque()
        """Whose input nobody can send any more, and nobody has closed.

        Told by garbage collection, which happens in the middle of anything, on any
        thread: with the device's lock held, too. So it takes none, and the guest is
        told with the next command.
        """
        self._wire = wire
        self._tells_time = False
        self._decoder = Decoder()
        self._channels: dict[int, Channel] = {}
        self._next_channel = 0
        self._ended: RunResult | None = None
        self._begin()

    def _begin(self) -> None:
        self._id = int.from_bytes(os.urandom(4), "little")
        self._is_greeted = self._is_welcome = False
        self._queue: list[tuple[int, int, bytes]] = []  # what hasn't gone to the wire
        self._queued = 0
        self._unasked: list[bytes] = []  # what has, before the answer to HELLO
        self._out_sequence = 1
        self._in_sequence = 0
        self._sent = self._taken = 0
        self._is_pinging = False

    # For the machine

    def power_on(self) -> None:
        """The guest boots: its agent will say that it is ready."""
        with self.changed:
            self._restart("guest: it has booted anew since the command was started")

    def greet(self, *, tells_time: bool = False) -> None:
        """Say HELLO now, to an agent that may be in a session with somebody else.

        With `tells_time` the guest's real time is to be ours.
        """
        with self.changed:
            self._tells_time = tells_time
            self._restart("guest: the connection to its agent was made anew")
            self._say_hello()

    def end(self, result: RunResult | None) -> None:
        """The run is over; None: it isn't, after all."""
        with self.changed:
            self._ended = result
            if result is not None:
                self._fail_all(lambda: ended_error(result))
            self.changed.notify_all()

    def receive(self, take: Callable[[], bytes]) -> None:
        """The guest has sent what `take` gives: untrusted, and never an error of ours.

        Whoever comes with more, from another vCPU, waits for his turn.
        """
        with self.changed:
            damaged = self._decoder.damaged
            for frame in self._decoder.feed(take()):
                self._take(frame)
            if self._decoder.damaged > damaged and self._is_welcome:
                self._ping()  # was it one of ours? The answer's number tells
            self.changed.notify_all()

    # For users

    @property
    def is_ready(self) -> bool:
        """Whether the agent has answered."""
        return self._is_welcome

    def check(self) -> None:
        """Raises GuestEnded if there is no guest any more. With the lock."""
        if self._ended is not None:
            raise ended_error(self._ended)

    def open(self, order: bytes) -> Channel:
        """Start a command, as soon as that can be. With the lock. Raises GuestEnded."""
        self.check()
        while self.dropped:
            dropped = self.dropped.popleft()
            if not dropped.is_over:
                dropped.end_input()
        while self._next_channel in self._channels:
            self._next_channel = (self._next_channel + 1) & 0xFFFF
        number = self._next_channel
        self._next_channel = (number + 1) & 0xFFFF
        channel = Channel(number, self.changed, self)
        self._channels[number] = channel
        size = frames.PAYLOAD_MAX
        *more, last = (order[at : at + size] for at in range(0, len(order), size))
        channel.order_frames = len(more) + 1
        for part in more:
            self.send(frames.RUN_MORE, number, part)
        self.send(frames.RUN, number, last)
        return channel

    def forget(self, channel: Channel) -> None:
        """Nobody is interested in it any more. With the lock."""
        if self._channels.get(channel.number) is channel:
            if not self._withdraw(channel):
                channel.close()
            channel.fail(VmmError("guest: the command was closed"))
            del self._channels[channel.number]

    # With the lock

    def _withdraw(self, channel: Channel) -> bool:
        """Take its order back, if none of it has gone: it is never to run.

        Who tries until the agent answers had all that he gave up run then, else.
        """
        own = [
            item
            for item in self._queue
            if item[1] == channel.number and item[0] != frames.PING
        ]
        kinds = [kind for kind, _, _ in own]
        if (
            kinds.count(frames.RUN_MORE) + kinds.count(frames.RUN)
            < channel.order_frames
        ):
            return False
        self._queue = [item for item in self._queue if item not in own]
        self._queued -= sum(len(payload) for _, _, payload in own)
        return True

    def _restart(self, why: str) -> None:
        self._fail_all(lambda: VmmError(why))
        self._wire.clear()
        self._begin()
        self.changed.notify_all()

    def _fail_all(self, make: Callable[[], Exception]) -> None:
        for channel in self._channels.values():
            channel.fail(make())
        self._channels.clear()

    def _say_hello(self) -> None:
        """HELLO, and again what has followed it before."""
        self._is_greeted = True
        self._wire.clear()
        entropy, now = os.urandom(32), time.time_ns() if self._tells_time else 0
        payload = _HELLO.pack(VERSION, self._id, entropy, now)
        hello = frames.END + frames.encode(frames.HELLO, 0, 0, payload)
        self._sent = self._taken = 0
        again = b"".join(self._unasked)
        self._sent += len(again)
        self._wire.send(hello + again)
        self._flush()

    def send(self, kind: int, channel: int, payload: bytes) -> None:
        """Send a frame, as soon as that may be."""
        self._queue.append((kind, channel, payload))
        self._queued += len(payload)
        self._flush()

    def room(self) -> int:
        """Bytes of payloads that needn't wait long in our memory."""
        return WIRE_WINDOW - self._queued

    def _flush(self) -> None:
        """Give the wire what may go."""
        sent = 0
        for item in self._queue:
            if not self._may_send():
                break
            kind, channel, payload = item
            data = frames.encode(kind, self._out_sequence, channel, payload)
            self._out_sequence += 1
            if not self._is_welcome:
                self._unasked.append(data)
            self._sent += len(data)
            self._wire.send(data)
            self._queued -= len(payload)
            sent += 1
        del self._queue[:sent]

    def _may_send(self) -> bool:
        if not self._is_welcome:
            return self._is_greeted and len(self._unasked) < UNASKED_MAX
        # What it says to have taken may be a lie.
        return (
            self._sent - self._taken < WIRE_WINDOW and self._wire.waiting < WIRE_WINDOW
        )

    def _ping(self) -> None:
        if not self._is_pinging:
            self._is_pinging = True
            self.send(frames.PING, 0, b"")

    def _take(self, frame: Frame) -> None:
        if frame.type == frames.READY:
            if self._is_welcome:
                self._restart("guest: its agent has started anew")
            self._say_hello()
        elif frame.type == frames.WELCOME:
            self._take_welcome(frame)
        elif self._is_welcome:
            self._check_sequence(frame)
            self._take_in_session(frame)

    def _take_welcome(self, frame: Frame) -> None:
        if self._is_welcome or len(frame.payload) != _WELCOME.size:
            return
        _, session = _WELCOME.unpack(frame.payload)
        if self._is_greeted and session == self._id:
            self._is_welcome = True
            self._in_sequence = 1
            self._unasked.clear()
            self._flush()

    def _check_sequence(self, frame: Frame) -> None:
        if frame.sequence != self._in_sequence & 0xFF:
            self._lose()
        self._in_sequence = frame.sequence + 1

    def _lose(self) -> None:
        """Nobody knows of which command something is missing."""
        self.lost += 1
        for channel in list(self._channels.values()):
            channel.close()
            channel.fail(VmmError(_LOST))
        self._channels.clear()

    def _take_in_session(self, frame: Frame) -> None:
        if frame.type == frames.TAKEN and len(frame.payload) == _NUMBER.size:
            taken = _NUMBER.unpack(frame.payload)[0]
            self._taken = max(self._taken, min(taken, self._sent))
            self._flush()
        elif frame.type == frames.PONG:
            self._is_pinging = False
        elif frame.type == frames.LOST:
            self._lose()
        elif (channel := self._channels.get(frame.channel)) is not None:
            channel.take(frame.type, frame.payload)
            if channel.is_over:
                self._channels.pop(frame.channel, None)


def ended_error(result: RunResult) -> GuestEnded:
    """What to raise when the guest has ended under a command."""
    head = f"guest: it has ended ({result.reason.value})"
    lines = [": ".join(filter(None, [head, result.detail]))]
    lines += printable(result.oops).splitlines()[-OOPS_LINES:]
    return GuestEnded("\n".join(lines), result)
