"""OutputPump: what a guest prints, from its device's sink to an endpoint."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..devices.buffered_sink import BufferedSink
from ..devices.clock import next_beat
from ..event_loop import EventLoop
from .endpoint import CHUNK, Endpoint, Flow

if TYPE_CHECKING:  # most runs have no tee
    from .tee import Tees

# Bytes come one by one, and each turn of the loop takes the GIL from a vCPU. So
# output is collected: shortly at first, which nobody sees, longer as it goes on.
COLLECT_MIN_NS: Final = 2_000_000
COLLECT_MAX_NS: Final = 16_000_000
HURRY_S: Final = 0.5  # for a reader to take the rest after a stop
TEE_PATIENCE_S: Final = 10.0  # for those who read a copy, after the end

OnOutput = Callable[[int, bytes], None]


class TappedSink(BufferedSink):
    """A BufferedSink that shows what it takes, at the moment when it does."""

    tap: Callable[[bytes], None]

    def write(self, data: bytes, /) -> int:
        taken = super().write(data)
        self.tap(data[:taken])
        return taken


class Branch:
    """One of several ways into a sink, each of which is told when there is room."""

    def __init__(self, sink: BufferedSink) -> None:
        self.on_room: Callable[[], None] | None = None
        self.write = sink.write
        self.room = sink.room


class Branches:
    """What the console's output comes by, if that is more than one device."""

    def __init__(self, sink: BufferedSink) -> None:
        self._sink = sink
        self._branches: list[Branch] = []
        sink.on_room = self._on_room

    def add(self) -> Branch:
        """One more."""
        self._branches.append(Branch(self._sink))
        return self._branches[-1]

    def _on_room(self) -> None:
        for branch in self._branches:
            if branch.on_room is not None:
                branch.on_room()


class OutputPump(Flow):
    """What the sink has; `finish` and what follows it are for other threads."""

    def __init__(
        self,
        loop: EventLoop,
        sink: BufferedSink,
        endpoint: Endpoint,
        on_failure: Callable[[OSError], None],
        on_output: OnOutput | None = None,
    ) -> None:
        """`on_output` is shown each piece and its position, before it is written, and
        maybe more than once."""
        self._drained = threading.Event()
        super().__init__(loop, endpoint, on_failure, self._drained.set)
        self.tees: Tees | None = None
        self.first_output_ns: int | None = None
        self.mid_line = False
        """Whether the last byte that an endpoint took was no newline."""
        self._loop = loop
        self._sink = sink
        self._on_output = on_output
        self._consumed = 0  # bytes of the sink that the endpoint has taken
        self._collecting = False
        self._collect_ns = COLLECT_MIN_NS
        self._stalled = False  # the endpoint will say when it takes more
        self._abandoned = False
        sink.on_data = self._on_data

    def _on_data(self) -> None:
        if self.first_output_ns is None:
            self.first_output_ns = self._loop.now_ns()
        if not self._collecting:
            self._collecting = True
            self._collect_ns = COLLECT_MIN_NS
            self._collect()

    def _collect(self) -> None:
        when = self._loop.now_ns() + self._collect_ns
        if self._collect_ns == COLLECT_MAX_NS:  # together with what the UART collects
            when = next_beat(self._loop.now_ns(), COLLECT_MAX_NS)
        self._loop.call_at(when, self._flush)

    def _flush(self) -> None:
        flowing = len(self._sink) > 0
        self.write()
        if flowing and not self._stalled:
            self._collect_ns = min(2 * self._collect_ns, COLLECT_MAX_NS)
            self._collect()
            return
        self._collecting = False
        if len(self._sink) and not self._stalled:  # it came just before that line
            self._on_data()

    def peek(self) -> bytes:
        data = bytes(self._sink.peek(CHUNK))
        if data and self._on_output is not None:
            self._on_output(self._consumed, data)
        return data

    def took(self, data: bytes, taken: int) -> None:
        self._consumed += taken
        if taken:
            self.mid_line = data[taken - 1] != ord("\n")
        self._sink.consume(taken)
        self._stalled = taken < len(data)

    # When the guest has stopped

    def show_rest(self) -> None:
        """Show `on_output` what waits in the sink, though nobody may have taken it."""
        if self._on_output is not None:
            ahead = bytes(self._sink.peek(len(self._sink)))
            self._on_output(self._sink.accepted - len(ahead), ahead)

    def finish(self, timeout: float | None) -> None:
        """Wait until the endpoint has taken all, or `abandon`, or `timeout` seconds."""
        self._drained.clear()
        self._loop.call_soon(self.write)
        self._drained.wait(HURRY_S if self._abandoned else timeout)
        if self.tees is None:
            return
        patience = HURRY_S if self._abandoned else TEE_PATIENCE_S
        if not self.tees.finish(patience) and not self._abandoned:
            self.tees.give_up(patience)

    def abandon(self) -> None:
        """Don't let `finish` wait for a reader that takes its time."""
        self._abandoned = True
        self._drained.set()
