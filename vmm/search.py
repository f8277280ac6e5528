"""Search: finds the first of some patterns in a stream that comes in pieces."""

import re
from collections.abc import Sequence
from typing import Any, Final

Pattern = str | bytes | re.Pattern[bytes] | re.Pattern[str]

WINDOW: Final = 1 << 20  # bytes, within which a regex's match must lie


class Found:
    """What `expect` found: a match, and all that came before it.

    `found[0]` is what matched, `found[1]` and `found["name"]` are a regex's groups.
    """

    def __init__(self, match: re.Match[bytes], before: bytes, index: int) -> None:
        self.match = match
        """Python's own; its positions are those within a window of the output."""
        self.before = before
        """What the reader had not read yet, up to the match."""
        self.index = index
        """Which of `expect_any`'s patterns it was."""

    @property
    def string(self) -> bytes:
        """All that was consumed: `before` and the match."""
        return self.before + self.match[0]

    def __getitem__(self, group: int | str) -> bytes | Any:  # noqa: ANN401, as re has it
        """A group; None, as in re, for one that took no part in the match."""
        return self.match[group]

    def group(self, group: int | str = 0) -> bytes | Any:  # noqa: ANN401, as re has it
        """The same by its name in re."""
        return self.match[group]

    def groups(self) -> tuple[bytes | Any, ...]:
        """All groups but the whole match."""
        return self.match.groups()

    def start(self) -> int:
        """Where in `string` the match begins."""
        return len(self.before)

    def end(self) -> int:
        """Where in `string` the match ends, which is its end."""
        return len(self.before) + len(self.match[0])

    def span(self) -> tuple[int, int]:
        """`start` and `end`."""
        return self.start(), self.end()

    def __repr__(self) -> str:
        return f"Found({self.match[0]!r}, index={self.index}, span={self.span()})"


class Search:
    """One search, from the place `base` in a stream on; `next` is what it wants.

    Text is found wherever it was cut, at the cost of looking at each byte once. A
    regex looks at the last WINDOW bytes again whenever more comes.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        """Raises ValueError if there are none."""
        if not patterns:
            raise ValueError("expect_any: no patterns")
        self._patterns = [_compile(pattern) for pattern in patterns]
        self.restart(0)

    def restart(self, base: int) -> None:
        """Begin anew at `base`."""
        self.base = base
        self._window = b""
        self._window_at = base

    @property
    def next(self) -> int:
        """The place of the byte that `feed` expects."""
        return self._window_at + len(self._window)

    def feed(self, data: bytes) -> tuple[re.Match[bytes], int] | None:
        """Look at more; returns the match that begins first, and its index."""
        seen = len(self._window)
        self._window += data
        best: tuple[re.Match[bytes], int] | None = None
        for index, (regex, again) in enumerate(self._patterns):
            match = regex.search(self._window, max(0, seen - again))
            if match and (best is None or match.start() < best[0].start()):
                best = match, index
        if best is None and len(self._window) > 2 * WINDOW:
            self._window_at += len(self._window) - WINDOW
            self._window = self._window[-WINDOW:]
        return best

    def place(self, offset: int) -> int:
        """Where in the stream a match's `offset` is."""
        return self._window_at + offset


def _compile(pattern: Pattern) -> tuple[re.Pattern[bytes], int]:
    """A regex, and how many bytes that were seen may be part of a new match."""
    if isinstance(pattern, re.Pattern):
        source = pattern.pattern
        if isinstance(source, str):
            flags = pattern.flags & ~re.UNICODE
            return re.compile(source.encode(), flags), 2 * WINDOW
        return re.compile(source, pattern.flags), 2 * WINDOW
    text = pattern.encode() if isinstance(pattern, str) else pattern
    return re.compile(re.escape(text)), max(0, len(text) - 1)
