"""Search: finds the first of some patterns in a stream that comes in pieces."""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from .found import AnyMatch, IsOver, RemoteMatch, SearchAborted
from .regex_cost import LINE, Cost, cost_of
from .regex_worker import Wanted, first_match

Elsewhere = Callable[
    [Sequence[Wanted], bytes, IsOver], "tuple[RemoteMatch, int] | None"
]
Pattern = str | bytes | re.Pattern[bytes] | re.Pattern[str]

WINDOW: Final = 64 << 10  # bytes, within which a regex's match must lie
NEAR: Final = LINE // 2  # bytes, within which it is found at once
LOOK_S: Final = 1.0  # that a look may take at first, while more may come


class _Pattern(NamedTuple):
    regex: re.Pattern[bytes]
    cost: Cost

    def start(self, text: bytes, seen: int) -> int:
        """Where a match may begin that has, or looks at, more than `seen` bytes."""
        if self.cost.reach is not None:
            return max(0, seen - self.cost.reach)
        if self.cost.newlines is None:
            return 0
        for _ in range(self.cost.newlines + 1):
            seen = text.rfind(b"\n", 0, max(0, seen))
        return max(0, seen)

    def is_quick(self, text: bytes, start: int) -> bool:
        """Whether it takes no time to speak of to look there."""
        if self.cost.is_cheap or not self.cost.is_affordable:
            return self.cost.is_cheap
        if self.cost.newlines is None:
            return len(text) - start <= LINE
        return max(map(len, text[start:].split(b"\n"))) <= LINE


class Search:
    """One search, from the place `base` in a stream on; `next` is what it wants.

    Text is found wherever it was cut, at the cost of looking at each byte once, and
    so are short regexes. Others look again at the line that isn't complete, or at
    the last WINDOW bytes. Where that may take long, somebody else is asked to look:
    at what is NEAR at once, and for half of the time at most at all the rest.
    """

    def __init__(self, patterns: Sequence[Pattern], elsewhere: Elsewhere) -> None:
        """Raises ValueError if there are none. `elsewhere`: as RegexProcesses'."""
        if not patterns:
            raise ValueError("expect_any: no patterns")
        self._patterns = [_compile(pattern) for pattern in patterns]
        self._kept = max(WINDOW, *(p.cost.reach or 0 for p in self._patterns))
        self._elsewhere = elsewhere
        self.restart(0)

    def restart(self, base: int) -> None:
        """Begin anew at `base`."""
        self.base = base
        self._window = b""
        self._window_at = base
        self._looked = 0  # at how much of the window, from all places
        self._patience_s = LOOK_S
        self.due = 0.0
        """When to `look`, by time.monotonic(), if it `owes_look`."""

    @property
    def next(self) -> int:
        """The place of the byte that `feed` expects."""
        return self._window_at + len(self._window)

    @property
    def owes_look(self) -> bool:
        """Whether a match may be there that begins too far away for `feed`."""
        return self._looked < len(self._window)

    def feed(
        self, data: bytes, is_over: IsOver = lambda: False
    ) -> "tuple[AnyMatch, int] | None":
        """Look at more; returns the match that begins first, and its index.

        Raises SearchAborted if `is_over` before all was looked at, and VmmError.
        """
        seen = len(self._window)
        self._window += data
        wanted = self._wanted()
        found: tuple[AnyMatch, int] | None
        if self._is_quick(wanted, self._window):
            if seen and is_over() and not all(p.cost.is_cheap for p in self._patterns):
                raise SearchAborted
            found = first_match(wanted, self._window)
            self._looked = len(self._window)
        else:
            found = self._feed_slowly(wanted, seen, is_over)
        if found is None and len(self._window) > 2 * self._kept:
            cut = len(self._window) - self._kept
            self._window_at += cut
            self._window = self._window[cut:]
            self._looked = max(0, self._looked - cut)
        return found

    def look(self, is_over: IsOver = lambda: False) -> "tuple[AnyMatch, int] | None":
        """Look at all that is remembered. Returns and raises what `feed` does."""
        began = time.monotonic()
        size = len(self._window)

        def is_enough() -> bool:
            return time.monotonic() - began > self._patience_s or is_over()

        found = None
        try:
            found = self._elsewhere(self._wanted(), self._window, is_enough)
            self._looked = size
        except SearchAborted:
            if is_over():
                raise
            self._patience_s *= 2
        now = time.monotonic()
        self.due = now + (now - began)
        return found

    def place(self, offset: int) -> int:
        """Where in the stream a match's `offset` is."""
        return self._window_at + offset

    def _wanted(self) -> list[Wanted]:
        return [(p.regex, p.start(self._window, self._looked)) for p in self._patterns]

    def _is_quick(self, wanted: Sequence[Wanted], text: bytes) -> bool:
        pairs = zip(self._patterns, wanted, strict=True)
        return all(pattern.is_quick(text, start) for pattern, (_, start) in pairs)

    def _feed_slowly(
        self, wanted: Sequence[Wanted], seen: int, is_over: IsOver
    ) -> "tuple[AnyMatch, int] | None":
        size = len(self._window)
        found: tuple[AnyMatch, int] | None
        for end in (*range(seen + NEAR, size, NEAR), size):
            text = self._window[:end]
            near = [(regex, max(start, end - 2 * NEAR)) for regex, start in wanted]
            if end > seen + NEAR and is_over():
                raise SearchAborted
            if self._is_quick(near, text):
                found = first_match(near, text)
            else:
                found = self._elsewhere(near, text, is_over)
            if found is not None:
                with suppress(SearchAborted):  # it need not be the first
                    return self.look(is_over) or found
                return found
        return self.look(is_over) if time.monotonic() >= self.due else None


def _compile(pattern: Pattern) -> _Pattern:
    if isinstance(pattern, re.Pattern):
        source = pattern.pattern
        flags = pattern.flags & ~re.DEBUG
        if isinstance(source, str):
            source, flags = source.encode(), flags & ~re.UNICODE
        regex = re.compile(source, flags)
        return _Pattern(regex, cost_of(regex))
    text = pattern.encode() if isinstance(pattern, str) else pattern
    return _Pattern(re.compile(re.escape(text)), Cost(0, len(text), 0))
