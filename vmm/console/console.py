"""Console: the host side of a guest's serial line, or hvc0, as a user has it."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Final

from ..devices.buffered_sink import BufferedSink
from ..devices.serial.events import SerialEvents
from ..devices.sink import Sink
from ..errors import VmmError
from ..event_loop import EventLoop
from ..place import Place
from ..result import RunResult
from .config import ConsoleConfig
from .endpoint import Endpoint
from .input import InputDevice, InputPump
from .opening import fills_a_disk, open_endpoint
from .output import Branches, OnOutput, OutputPump, TappedSink

if TYPE_CHECKING:  # a run whose output nobody reads here doesn't import them
    from ..expect.capture import CaptureEndpoint
    from ..expect.found import Found
    from ..expect.reader import Reader
    from ..expect.search import Pattern
    from .tee import Tees

FILE_LIMIT: Final = 1 << 30  # or a guest could fill the host's disk


class Console:
    """What a guest prints, to be read and copied; what is typed, for it to read.

    Bytes move on the loop's thread; a user may call from any. Output: Serial ->
    `sink` -> OutputPump -> endpoint. Input: endpoint or `send` -> InputPump -> Serial.
    """

    def __init__(
        self,
        loop: EventLoop,
        config: ConsoleConfig,
        on_failure: Callable[[str], None],
        tap: Callable[[bytes], None] | None = None,
        on_output: OnOutput | None = None,
        field: str = "serial",
    ) -> None:
        """Raises ConfigError if `config.serial` or a tee can't be opened.

        `on_failure` is told when a place can't be written any more. `tap` is told all
        output as it comes, under the UART's lock; `on_output` as OutputPump has it.
        `field` is where the user has said what `config.serial` is, for that error.
        """
        self.owner = "the console"
        """Whose output it is, for messages."""
        self.input_filter: Callable[[bytes], bytes] = bytes
        """What of the endpoint's input is for the guest."""
        self._loop = loop
        self._on_failure = on_failure
        self._devices: list[InputDevice] = []
        self._branches: Branches | None = None
        self._terminal: Callable[[int, int], None] | None = None
        self._capture: CaptureEndpoint | None = None
        self._own_reader: Reader | None = None
        self._lock = threading.Lock()  # for the reader
        self._socket_mode = config.socket_mode
        self._field = field
        self._place = config.serial
        with ExitStack() as self._cleanup:
            endpoint = self._open(config.serial)
            has_file = fills_a_disk(endpoint)
            tees = None
            if config.tee:
                endpoint, tees = self._open_tees(endpoint, config.tee)
                has_file |= tees is not None and tees.has_file
            self._cleanup = self._cleanup.pop_all()
        limit = FILE_LIMIT if has_file else None
        self._capacity = config.serial_buffer
        self.sink = _make_sink(config, limit, loop, tap)
        self._output = OutputPump(loop, self.sink, endpoint, self._fail, on_output)
        self._output.tees = tees
        self._input = InputPump(loop, endpoint)

    def _open(self, where: Place) -> Endpoint:
        if where.kind == "capture":
            return self._make_capture(awaits_reader=True)
        endpoint = open_endpoint(
            self._loop, self, where, self._field, self._socket_mode
        )
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

    def _open_tees(
        self, endpoint: Endpoint, places: Sequence[Place]
    ) -> "tuple[Endpoint, Tees | None]":
        from .tee import Teed, Tees

        capture = self._capture
        if capture is None:
            capture = self._make_capture(awaits_reader=False)
            endpoint = Teed(endpoint, capture)
        places = [where for where in places if where.kind != "capture"]
        if not places:
            return endpoint, None
        tees = Tees(
            capture,
            self._loop,
            places,
            self._on_failure,
            self._cleanup,
            self._socket_mode,
        )
        return endpoint, tees

    def _fail(self, error: OSError) -> None:
        self._on_failure(f"{self.owner}'s output can't be written: {error}")

    # For the machine

    @property
    def events(self) -> SerialEvents:
        """What a Serial tells of its traffic; its output goes to `sink`."""
        return self._input

    def branch(self) -> Sink:
        """A sink for one device of several whose output is the console's."""
        if self._branches is None:
            self._branches = Branches(self.sink)
        return self._branches.add()

    def connect(
        self,
        device: InputDevice,
        resize: Callable[[int, int], None] | None = None,
    ) -> None:
        """Wire the device, before the loop starts; of several, the last has the input.

        `resize` tells it how many columns and rows its terminal has.
        """
        self._devices.append(device)
        self._terminal = resize
        self._input.connect(device)

    def power_on(self, *, goes_on: bool = False) -> None:
        """The guest is about to boot, for the first time or again; or to go on."""
        self._input.power_on(goes_on=goes_on)

    @property
    def printed(self) -> int:
        """Bytes that the guest has printed, and we have taken or dropped."""
        return self.sink.accepted + self.sink.dropped

    @property
    def first_output_ns(self) -> int | None:
        """When the guest's first byte came."""
        return self._output.first_output_ns

    @property
    def mid_line(self) -> bool:
        """Whether the last byte that an endpoint took was no newline."""
        return self._output.mid_line

    @property
    def is_held(self) -> bool:
        """Whether a slow reader holds the guest, or would with its next byte."""
        return len(self.sink) >= self._capacity

    def flush(self) -> None:
        """Take what the devices have collected. For when the guest has stopped."""
        for device in self._devices:
            device.flush()

    def show_rest(self) -> None:
        """Show `on_output` all that was printed, though no reader may have taken it.

        For when the guest has stopped.
        """
        self.flush()
        self._output.show_rest()

    def finish(self, timeout: float | None) -> None:
        """Wait until the endpoint has taken all, or `abandon`, or `timeout` seconds.

        For when the guest has stopped.
        """
        self.flush()
        self._output.finish(timeout)

    def abandon(self) -> None:
        """Don't let `finish` wait for a reader that takes its time."""
        self._output.abandon()

    def end(self, result: RunResult | None) -> None:
        """The run is over: `expect` waits no longer for what it hasn't got.

        None: it wasn't, the guest was paused, and goes on.
        """
        if self._capture is not None:
            self._capture.end(result)

    def close(self) -> None:
        """Close what was opened for the console; after the loop has stopped."""
        self._cleanup.close()

    # For its endpoint, on the loop's thread

    def endpoint_ready(self) -> None:
        """There is room for output again."""
        self._output.write()

    def endpoint_input(self, data: bytes) -> bool:
        """Type what came from the endpoint; False if some of it has to wait."""
        return self._input.take(self.input_filter(data))

    # What a test does with it, where `serial` is "capture" or there is a tee

    def reader(self) -> "Reader":
        """One more reader, at its own place: at first, that of the oldest byte kept.

        The methods below read with one that the console makes when it is needed.
        Until the first reader is made, all that the guest prints is kept for it.
        Raises VmmError if this console's output isn't captured.
        """
        return self._captured().reader()

    def expect(self, pattern: "Pattern", timeout: float = 30) -> "Found":
        """Wait for text, taken literally (pexpect has a regex there), or a regex.

        That is a str or bytes, or what `re.compile` gives; for up to `timeout`
        seconds. See Reader.expect. Output up to the match's end is consumed; the
        result has the match, its groups and what came `before`. Raises ExpectTimeout,
        or GuestEnded at once when the run is over and the pattern hasn't come.
        """
        __tracebackhide__ = True
        return self._reader.expect(pattern, timeout)

    def expect_any(self, patterns: "Sequence[Pattern]", timeout: float = 30) -> "Found":
        """Wait for the first of several; the result's `index` tells which."""
        __tracebackhide__ = True
        return self._reader.expect_any(patterns, timeout)

    def read(self) -> bytes:
        """All that was printed and not yet consumed; consumes it."""
        return self._reader.read()

    def read_until_idle(self, idle: float = 0.5, timeout: float = 30) -> bytes:
        """Consume what comes until there is silence; see Reader.read_until_idle."""
        __tracebackhide__ = True
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

    def drop_input(self) -> None:
        """Forget what is typed and not read yet: it was for another guest."""
        self._input.drop()

    def hold_input(self) -> None:
        """The guest stands still: keep what is typed. On the loop's thread."""
        self._input.hold()

    def release_input(self) -> None:
        """It goes on: from any thread."""
        self._input.release()

    def send(self, data: bytes | str) -> None:
        """Type `data`; returns at once, and the guest reads as fast as it can."""
        self._input.send(_encoded(data))

    def sendline(self, line: bytes | str = b"") -> None:
        """Type `line` and a newline."""
        self._input.send(_encoded(line) + b"\n")

    def send_break(self, before: bytes = b"") -> None:
        """Type `before`, then hold the line low: BREAK.

        Linux takes the next character, within five seconds, for a SysRq command, if
        ttyS0 is its console: Documentation/admin-guide/sysrq.rst.
        """
        self._input.send(before, then_break=True)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the guest the size of its terminal, where that is hvc0.

        ttyS0 knows of none: there it does nothing. Raises ValueError unless both are
        0..65535.
        """
        if self._terminal is not None:
            self._terminal(columns, rows)

    def follow_terminal(self) -> AbstractContextManager[None]:
        """Have the guest's terminal be as large as ours, within the `with` block.

        On the main thread; where the guest's has no size it does nothing.
        """
        if self._terminal is None:
            return nullcontext()
        from .terminal_size import followed

        return followed(self._loop, self._terminal)

    def interact(self) -> None:
        """Give this process's terminal to the guest, until Ctrl-A x or the run's end.

        It shows a screenful of what was printed, then what comes; keys go to the guest
        as with `vmm run`: Ctrl-A h tells which don't. Whoever else reads the console
        misses nothing of it. Call it as often as you like, on the main thread.
        Raises VmmError where stdin and stdout are no terminal or the console's already
        (`serial`), or nothing is captured.
        """
        if self._place.is_standard:  # with a tee
            raise VmmError(
                "interact: the guest has the terminal already: "
                f"{self._field}='{self._place}'"
            )
        from .interaction import interact  # which most runs don't need

        interact(self._input, self._captured(), self._terminal)


def _make_sink(
    config: ConsoleConfig,
    default_limit: int | None,
    loop: EventLoop,
    tap: Callable[[bytes], None] | None,
) -> BufferedSink:
    limit = config.serial_limit
    sink = (BufferedSink if tap is None else TappedSink)(
        config.serial_buffer,
        policy=config.serial_policy,
        total_limit=default_limit if limit is None else limit,
        rate=config.serial_rate,
        clock=loop,
    )
    if isinstance(sink, TappedSink) and tap is not None:
        sink.tap = tap
    return sink


def _encoded(data: bytes | str) -> bytes:
    return data.encode() if isinstance(data, str) else data
