"""ConsoleTimeline: when the guest printed each line, in bounded memory."""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from ..foreign_text import printable

MAX_LINES: Final = 20_000
MAX_LINE: Final = 240  # bytes kept of one

_ANSI: Final = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")  # ECMA-48: control sequences


class Mark(NamedTuple):
    """An instant, and what had been counted until then over all vCPUs."""

    ns: int
    exits: int
    device_ns: int


class Line(NamedTuple):
    """One line: at its first byte and at its last."""

    start: Mark
    end: Mark
    data: bytes
    cut: int  # bytes that are not in `data`

    @property
    def text(self) -> str:
        """Fit to be shown: printable characters on one line, whatever was sent."""
        plain = _ANSI.sub(b"", self.data).rstrip(b"\r")
        shown = printable(plain).expandtabs()
        return f"{shown} … and {self.cut} bytes" if self.cut else shown


class ConsoleTimeline:
    """Splits what the guest prints into lines. Calls are made under the UART's lock.

    `mark` gives the present. `count` is how many lines there were, of which
    `lines` has the first MAX_LINES.
    """

    def __init__(self, now_ns: Callable[[], int], mark: Callable[[], Mark]) -> None:
        self.lines: list[Line] = []
        self.count = 0
        self._now_ns = now_ns
        self._mark = mark
        self._start: Mark | None = None  # of the line that has not ended
        self._last_ns = 0
        self._text = bytearray()
        self._cut = 0

    def feed(self, data: bytes) -> None:
        """The UART sends `data`."""
        while data:
            if self._start is None:
                self._start = self._mark()
            piece, newline, data = data.partition(b"\n")
            room = MAX_LINE - len(self._text)
            self._text += piece[:room]
            self._cut += max(0, len(piece) - room)
            if newline:
                self._end(self._start, self._mark())
            else:
                self._last_ns = self._now_ns()

    def break_line(self) -> None:
        """What comes next is on a new line: the guest has ended."""
        if self._start is not None:
            # A byte is not worth counting exits for: those of this line are
            # counted to the pause after it.
            self._end(self._start, self._start._replace(ns=self._last_ns))

    def _end(self, start: Mark, end: Mark) -> None:
        self.count += 1
        if len(self.lines) < MAX_LINES:
            self.lines.append(Line(start, end, bytes(self._text), self._cut))
        self._start = None
        self._text.clear()
        self._cut = 0
