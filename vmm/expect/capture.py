"""CaptureEndpoint: keeps the guest's output for its readers, in bounded memory."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..result import RunResult
from .history import History
from .reader import Reader

if TYPE_CHECKING:  # most searches need no process
    from .regex_process import RegexProcesses

CAPTURE_LIMIT: Final = 64 << 20  # bytes that a reader may be behind
LATEST: Final = 16 << 10  # bytes that are shown of what was printed before


class CaptureEndpoint:
    """Holds what the guest printed: for the readers, and for the transcript.

    It keeps the last `limit` bytes. When that would throw away what a reader
    hasn't read, or before the first reader anything, it takes no more, so that
    the sink's policy applies: the guest is held, or its output dropped. `on_room`
    is called when it takes more again, on the thread of whoever made the room.

    Threads: `write` on the loop's, all else on any; `changed` guards the state.
    """

    may_be_early = False

    def __init__(
        self,
        on_room: Callable[[], None],
        limit: int = CAPTURE_LIMIT,
        *,
        awaits_reader: bool = True,
    ) -> None:
        """`awaits_reader` False: without a reader nothing is held back."""
        self.changed = threading.Condition()
        self.history = History(limit)
        self.result: RunResult | None = None
        self.on_data: Callable[[], None] = lambda: None
        """Called after a write, on its thread, with no lock held."""
        self._on_room = on_room
        self._awaits_reader = awaits_reader
        self._refused = False
        self._readers: list[Reader] = []
        self._processes: RegexProcesses | None = None

    def room(self, wanted: int) -> int:
        """How many of `wanted` bytes `write` takes; if not all, `on_room` follows."""
        with self.changed:
            room = min(wanted, self._room())
            self._refused |= room < wanted
        return room

    def write(self, data: bytes) -> int:
        """Take bytes from the front. Raises OSError if the disk is full."""
        with self.changed:
            taken = data[: self._room()]
            self.history.append(taken)
            self._refused |= len(taken) < len(data)
            self.changed.notify_all()
        self.on_data()
        return len(taken)

    def resume_input(self) -> None:
        """There is none to pause."""

    def close(self) -> None:
        """Let go of the temporary file, and of what looks for regexes. Idempotent."""
        with self.changed:
            self.history.close()
            if self._processes is not None:
                self._processes.close()

    @property
    def processes(self) -> "RegexProcesses":
        """Where it is looked for what may take long."""
        from .regex_process import RegexProcesses

        with self.changed:
            if self._processes is None:
                self._processes = RegexProcesses()
            return self._processes

    def end(self, result: RunResult | None) -> None:
        """No more output will come; None: it will, after all."""
        with self.changed:
            self.result = result
            self.changed.notify_all()

    def reader(self) -> Reader:
        """A reader for the user; it begins with the oldest byte that is kept."""
        with self.changed:
            self._awaits_reader = False
        return self.copier()

    def copier(self) -> Reader:
        """A reader for us, which doesn't count as the first."""
        with self.changed:
            reader = Reader(self)
            self._readers.append(reader)
        return reader

    def latest(self, lines: int) -> Reader:
        """As `copier`, but it begins with the last `lines`, or 16 KiB of them."""
        reader = self.copier()
        with self.changed:
            end = self.history.end
            start = max(self.history.start, end - LATEST)
            text = self.history.read(start, LATEST)
            at = len(text)
            for _ in range(lines):
                at = text.rfind(b"\n", 0, max(0, at))
            reader.position = start + at + 1
        self.notify_room()
        return reader

    def forget(self, reader: Reader) -> None:
        """Keep nothing for this one any more."""
        with self.changed:
            if reader in self._readers:
                self._readers.remove(reader)
        self.notify_room()

    def transcript(self) -> bytes:
        """All that is kept, whoever has read it."""
        with self.changed:
            return self.history.read(self.history.start, self.history.limit)

    def notify_room(self) -> None:
        """Call `on_room` if a write was cut short and would take something now."""
        with self.changed:
            tell = self._refused and self._room() > 0
            self._refused &= not tell
        if tell:
            self._on_room()

    def _room(self) -> int:
        needed = [reader.position for reader in self._readers]
        if self._awaits_reader:
            needed.append(self.history.start)
        oldest = min(needed, default=self.history.end)
        return self.history.limit - (self.history.end - oldest)
