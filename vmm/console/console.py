"""Console: the host side of ttyS0, between the Serial device and an endpoint."""

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from ..config import MachineConfig
from ..devices.buffered_sink import BufferedSink
from ..devices.clock import next_beat
from ..devices.errors import FullFifo
from ..devices.serial.reg import UART_IER_RDI
from ..devices.serial.uart import FIFO_SIZE, Serial, SerialEvents
from ..errors import VmmError
from ..event_loop import EventLoop, NextTurn
from ..result import RunResult
from ..watch.panic import PanicWatch
from .endpoint import Endpoint, FdEndpoint, NullEndpoint, open_output_file

if TYPE_CHECKING:  # a run whose output nobody reads here doesn't import them
    from ..expect.capture import CaptureEndpoint
    from ..expect.found import Found
    from ..expect.reader import Reader
    from ..expect.search import Pattern
    from .tee import Tees

# Bytes come one by one, and each turn of the loop takes the GIL from a vCPU. So
# output is collected: shortly at first, which nobody sees, longer as it goes on.
COLLECT_MIN_NS: Final = 2_000_000
COLLECT_MAX_NS: Final = 16_000_000
CHUNK: Final = 64 << 10
TURN: Final = 4 * CHUNK  # output in one turn of the loop: others wait for theirs
TURN_IN: Final = 64  # fillings of the guest's FIFO, likewise
FILE_LIMIT: Final = 1 << 30  # or a guest could fill the host's disk
LISTEN_NS: Final = 20_000_000  # between two looks whether the guest listens
PATIENCE_NS: Final = 10_000_000_000  # with a guest that doesn't
HURRY_S: Final = 0.5  # for a reader to take the rest after a stop
TEE_PATIENCE_S: Final = 10.0  # for those who read a copy, after the end


class _TappedSink(BufferedSink):
    """A BufferedSink that shows what it takes, at the moment when it does."""

    tap: Callable[[bytes], None]

    def write(self, data: bytes, /) -> int:
        taken = super().write(data)
        self.tap(data[:taken])
        return taken


class Console(SerialEvents):
    """Moves bytes both ways on the loop's thread; a user may call from any.

    Output: Serial -> `sink` -> endpoint. Input: endpoint or `send` -> a queue ->
    Serial, as the guest drains its FIFO. `on_failure` is told when the endpoint
    can't be written any more; what the guest prints from then on is discarded.
    """

    def __init__(
        self,
        loop: EventLoop,
        config: MachineConfig,
        on_failure: Callable[[str], None],
        tap: Callable[[bytes], None] | None = None,
    ) -> None:
        """Raises ConfigError if `config.serial` or a tee can't be opened.

        `tap` is told all output as it comes, under the UART's lock.
        """
        self._loop = loop
        self._on_failure = on_failure
        self.owner = "the console"
        """Whose output it is, for messages."""
        self.watch = PanicWatch()
        self._consumed = 0  # bytes of the sink that the endpoint has taken
        self.first_output_ns: int | None = None
        self.mid_line = False
        """Whether the last byte that an endpoint took was no newline."""
        self.input_filter: Callable[[bytes], bytes] = bytes
        self._serial: Serial | None = None
        self._capture: CaptureEndpoint | None = None
        self._tees: Tees | None = None
        self._own_reader: Reader | None = None
        self._lock = threading.Lock()  # for the input queue, and the reader
        self._socket_mode = config.socket_mode
        with ExitStack() as self._cleanup:
            self._endpoint = self._open(config.serial)
            ours = self._endpoint
            fills_a_disk = isinstance(ours, FdEndpoint) and ours.is_file
            if config.tee:
                fills_a_disk |= self._open_tees(config.tee).has_file
            self._cleanup = self._cleanup.pop_all()
        capacity = config.serial_buffer
        limit, rate = config.serial_limit, config.serial_rate
        # The configuration has made numbers of them.
        assert not isinstance(capacity, str)
        self._capacity = capacity
        assert not isinstance(limit, str)
        assert not isinstance(rate, str)
        if limit is None and fills_a_disk:
            limit = FILE_LIMIT
        sink_type = BufferedSink if tap is None else _TappedSink
        self.sink = sink_type(
            capacity,
            policy=config.serial_policy,
            total_limit=limit,
            rate=rate,
            clock=loop,
            on_data=self._on_data,
        )
        if tap is not None:
            assert isinstance(self.sink, _TappedSink)
            self.sink.tap = tap
        self._input = bytearray()
        self._breaks: list[int] = []  # places in the input, of what comes after each
        self._feed_is_due = False
        self._awaiting = False  # looking now and then whether the guest listens
        self._holding = False
        self._listened = False
        self._patience_ends_ns = 0
        self._held_since_ns: int | None = None
        self._collecting = False
        self._collect_ns = COLLECT_MIN_NS
        self._stalled = False  # the endpoint will say when it takes more
        self._go_on = NextTurn(loop, self.endpoint_ready)
        self._drained = threading.Event()
        self._abandoned = False

    def _open(self, where: str) -> Endpoint:
        kind, _, path = where.partition(":")
        endpoint: Endpoint
        if kind == "capture":
            return self._make_capture(awaits_reader=True)
        if kind == "null":
            return NullEndpoint()
        if kind == "unix":
            from .unix_endpoint import UnixEndpoint  # most runs have none

            endpoint = UnixEndpoint(self._loop, self, path, mode=self._socket_mode)
        elif kind == "file":
            fd = open_output_file(path)
            self._cleanup.callback(os.close, fd)
            endpoint = FdEndpoint(self._loop, self, fd)
        else:
            fd_in = None if kind == "stdout" else 0
            endpoint = FdEndpoint(self._loop, self, fd_out=1, fd_in=fd_in)
        self._cleanup.callback(endpoint.close)
        return endpoint

    def _make_capture(self, *, awaits_reader: bool) -> "CaptureEndpoint":
        from ..expect.capture import CaptureEndpoint

        self._capture = CaptureEndpoint(
            lambda: self._loop.call_soon(self.endpoint_ready),
            awaits_reader=awaits_reader,
        )
        self._cleanup.callback(self._capture.close)
        return self._capture

    def _open_tees(self, places: Sequence[str]) -> "Tees":
        from .tee import Teed, Tees

        capture = self._capture
        if capture is None:
            capture = self._make_capture(awaits_reader=False)
            self._endpoint = Teed(self._endpoint, capture)
        self._tees = Tees(
            capture,
            self._loop,
            places,
            self._on_failure,
            self._cleanup,
            self._socket_mode,
        )
        return self._tees

    def connect(self, serial: Serial) -> None:
        """Wire the device's input, before the loop starts."""
        self._serial = serial

    def close(self) -> None:
        """Close what was opened for the console; after the loop has stopped."""
        self._cleanup.close()

    # Output

    @property
    def printed(self) -> int:
        """Bytes that the guest has printed, and we have taken or dropped."""
        return self.sink.accepted + self.sink.dropped

    @property
    def is_held(self) -> bool:
        """Whether a slow reader holds the guest, or would with its next byte."""
        return len(self.sink) >= self._capacity

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
        flowing = len(self.sink) > 0
        self.endpoint_ready()
        if flowing and not self._stalled:
            self._collect_ns = min(2 * self._collect_ns, COLLECT_MAX_NS)
            self._collect()
            return
        self._collecting = False
        if len(self.sink) and not self._stalled:  # it came just before that line
            self._on_data()

    def endpoint_ready(self) -> None:
        """Give the endpoint what it takes. On the loop's thread.

        A guest may print faster than that: there is an end to each turn, and another.
        """
        left = TURN
        while data := bytes(self.sink.peek(CHUNK)):
            if left <= 0:
                self._go_on.ask()
                return
            self.watch.feed(self._consumed, data)
            try:
                taken = self._endpoint.write(data)
            except OSError as error:
                self._on_failure(f"{self.owner}'s output can't be written: {error}")
                self._endpoint = NullEndpoint()
                continue
            self._consumed += taken
            if taken:
                self.mid_line = data[taken - 1] != ord("\n")
            self.sink.consume(taken)
            left -= taken
            self._stalled = taken < len(data)
            if self._stalled:
                return
        self._drained.set()

    def flush(self) -> None:
        """Take what the UART has collected. For when the guest has stopped."""
        if self._serial is not None:
            self._serial.flush()

    def finish(self, timeout: float | None) -> None:
        """Wait until the endpoint has taken all, or `abandon`, or `timeout` seconds.

        For when the guest has stopped.
        """
        self.flush()
        self._drained.clear()
        self._loop.call_soon(self.endpoint_ready)
        self._drained.wait(HURRY_S if self._abandoned else timeout)
        if self._tees is None:
            return
        patience = HURRY_S if self._abandoned else TEE_PATIENCE_S
        if not self._tees.finish(patience) and not self._abandoned:
            self._tees.give_up(patience)

    def abandon(self) -> None:
        """Don't let `finish` wait for a reader that takes its time."""
        self._abandoned = True
        self._drained.set()

    def end(self, result: RunResult) -> None:
        """The run is over: `expect` waits no longer for what it hasn't got."""
        if self._capture is not None:
            self._capture.end(result)

    def resume(self) -> None:
        """It wasn't over: the guest was paused, and goes on."""
        if self._capture is not None:
            self._capture.end(None)

    @property
    def panic_line(self) -> str | None:
        """The guest's panic message, though no reader may have taken it yet.

        For when the guest has stopped.
        """
        if self._serial is not None:
            self._serial.flush()
        ahead = bytes(self.sink.peek(len(self.sink)))
        self.watch.feed(self.sink.accepted - len(ahead), ahead)
        return self.watch.line

    # What a test does with it, where `serial` is "capture" or there is a tee

    def reader(self) -> "Reader":
        """One more reader, at its own place: at first, that of the oldest byte kept.

        The methods below read with one that the console makes when it is needed.
        Until the first reader is made, all that the guest prints is kept for it.
        Raises VmmError if this console's output isn't captured.
        """
        return self._captured().reader()

    def expect(self, pattern: "Pattern", timeout: float = 30) -> "Found":
        """Wait up to `timeout` seconds for a str, bytes or regex; see Reader.expect.

        Output up to the match's end is consumed; the result has the match, its
        groups and what came `before`. Raises ExpectTimeout, or GuestEnded at once
        when the run is over and the pattern hasn't come.
        """
        return self._reader.expect(pattern, timeout)

    def expect_any(self, patterns: "Sequence[Pattern]", timeout: float = 30) -> "Found":
        """Wait for the first of several; the result's `index` tells which."""
        return self._reader.expect_any(patterns, timeout)

    def read(self) -> bytes:
        """All that was printed and not yet consumed; consumes it."""
        return self._reader.read()

    def read_until_idle(self, idle: float = 0.5, timeout: float = 30) -> bytes:
        """Consume what comes until there is silence; see Reader.read_until_idle."""
        return self._reader.read_until_idle(idle, timeout)

    @property
    def is_captured(self) -> bool:
        """Whether output is kept, to be read here: for "capture" and for tees."""
        return self._capture is not None

    @property
    def transcript(self) -> bytes:
        """All output so far, or its last 64 MiB, whoever has consumed it."""
        return self._captured().transcript()

    @property
    def _reader(self) -> "Reader":
        with self._lock:
            if self._own_reader is None:
                self._own_reader = self.reader()
            return self._own_reader

    def _captured(self) -> "CaptureEndpoint":
        if self._capture is None:
            raise VmmError(
                "console: nothing is kept to be read here: that needs serial='capture'"
            )
        return self._capture

    # Input

    def power_on(self) -> None:
        """The guest is about to boot, for the first time or again."""
        self.watch.restart(self.sink.accepted)
        self._holding = self._endpoint.may_be_early
        self._listened = False
        self._patience_ends_ns = self._loop.now_ns() + PATIENCE_NS

    def hold_input(self) -> None:
        """The guest stands still: keep what is typed. On the loop's thread."""
        self._held_since_ns = self._loop.now_ns()

    def release_input(self) -> None:
        """It goes on: from any thread."""
        since_ns, self._held_since_ns = self._held_since_ns, None
        if since_ns is not None:
            self._patience_ends_ns += self._loop.now_ns() - since_ns
            self._loop.call_soon(self._feed)

    def send(self, data: bytes | str) -> None:
        """Type `data`; returns at once, and the guest reads as fast as it can."""
        with self._lock:
            self._input += data.encode() if isinstance(data, str) else data
        self._holding = False  # whoever calls this knows when
        self._loop.call_soon(self._feed)

    def send_break(self, before: bytes = b"") -> None:
        """Type `before`, then hold the line low: BREAK.

        Linux takes the next character, within five seconds, for a SysRq command, if
        ttyS0 is its console: Documentation/admin-guide/sysrq.rst.
        """
        with self._lock:
            self._input += before
            self._breaks.append(len(self._input))
        self._holding = False
        self._loop.call_soon(self._feed)

    def sendline(self, line: bytes | str = b"") -> None:
        """Type `line` and a newline."""
        data = line.encode() if isinstance(line, str) else line
        self.send(data + b"\n")

    def endpoint_input(self, data: bytes) -> bool:
        """Type what came from the endpoint; False if some of it has to wait."""
        typed = self.input_filter(data)  # which may type and break by itself
        with self._lock:
            self._input += typed
        self._feed()
        return not self._input

    def in_buffer_empty(self) -> None:
        """The guest has drained its FIFO: SerialEvents, on a vCPU's thread."""
        # Not twice: a guest may do this faster than the loop turns.
        if (self._input or self._breaks) and not self._feed_is_due:
            self._feed_is_due = True
            self._loop.call_soon(self._feed)

    def _await_listener(self) -> None:
        """Hold input back until the guest's driver has opened the port.

        A pipe has its input ready before the guest has booted, and a driver that
        opens the port clears the FIFO: what is in it would be lost. It listens
        when RDI is enabled and stays so, for Linux's probe enables it in passing;
        a guest that polls never does, and gets its input a little later.
        """
        assert self._serial is not None
        if self._held_since_ns is not None:
            self._awaiting = False
            return
        now = self._loop.now_ns()
        listens = bool(self._serial.state().interrupt_enable & UART_IER_RDI)
        if (listens and self._listened) or now > self._patience_ends_ns:
            self._holding = self._awaiting = False
            self._feed()
            return
        self._awaiting = True
        self._listened = listens
        self._loop.call_at(now + LISTEN_NS, self._await_listener)

    def _feed(self) -> None:
        assert self._serial is not None
        self._feed_is_due = False
        if self._held_since_ns is not None:
            return
        if self._holding:
            if not self._awaiting:
                self._await_listener()
            return
        with self._lock:
            for _ in range(TURN_IN):
                if not self._input and not self._breaks:
                    break
                if not self._feed_some(self._serial):
                    return
            else:
                self._feed_is_due = True
                self._loop.call_soon(self._feed)
                return
        self._endpoint.resume_input()

    def _feed_some(self, serial: Serial) -> bool:
        """A break, or what there is before one; False if the guest takes none."""
        if self._breaks and self._breaks[0] == 0:
            sent = serial.fifo_capacity() > 0 and serial.inject_break()
            if sent:
                del self._breaks[0]
            return sent
        end = self._breaks[0] if self._breaks else len(self._input)
        try:
            taken = serial.enqueue_raw_bytes(bytes(self._input[: min(end, FIFO_SIZE)]))
        except FullFifo:
            return False
        del self._input[:taken]
        self._breaks = [place - taken for place in self._breaks]
        return taken > 0  # loopback refuses the host
