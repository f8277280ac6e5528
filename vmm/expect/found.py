"""Found: what a search has found."""

import re
from collections.abc import Callable
from typing import Any

IsOver = Callable[[], bool]
"""Whether there is no more time to look."""


class SearchAborted(Exception):
    """There was no more time to look."""


class RemoteMatch:
    """What Python's own match has, of one that another process has found."""

    def __init__(
        self, regex: re.Pattern[bytes], text: bytes, spans: list[tuple[int, int]]
    ) -> None:
        self._regex = regex
        self._text = text
        self._spans = spans

    def start(self) -> int:
        """Where it begins in the text."""
        return self._spans[0][0]

    def end(self) -> int:
        """Where it ends."""
        return self._spans[0][1]

    def __getitem__(self, group: int | str) -> bytes | Any:  # noqa: ANN401, as re has it
        """A group; None for one that took no part in the match."""
        index = (
            self._regex.groupindex.get(group, -1) if isinstance(group, str) else group
        )
        if not 0 <= index < len(self._spans):
            raise IndexError("no such group")
        start, end = self._spans[index]
        return None if start < 0 else self._text[start:end]

    def groups(self) -> tuple[bytes | Any, ...]:
        """All groups but the whole match."""
        return tuple(self[index] for index in range(1, len(self._spans)))

    def again(self) -> re.Match[bytes]:
        """Python's own, for which it looks once more, at the same place."""
        match = self._regex.match(self._text, self.start())
        assert match is not None
        return match


AnyMatch = re.Match[bytes] | RemoteMatch


class Found:
    """What `expect` found: a match, and all that came before it.

    `found[0]` is what matched, `found[1]` and `found["name"]` are a regex's groups.
    """

    def __init__(self, match: AnyMatch, before: bytes, index: int) -> None:
        self._match = match
        self.before = before
        """What the reader had not read yet, up to the match."""
        self.index = index
        """Which of `expect_any`'s patterns it was."""

    @property
    def match(self) -> re.Match[bytes]:
        """Python's own; its positions are those within a window of the output."""
        match = self._match
        return match if isinstance(match, re.Match) else match.again()

    @property
    def string(self) -> bytes:
        """All that was consumed: `before` and the match."""
        return self.before + self._match[0]

    def __getitem__(self, group: int | str) -> bytes | Any:  # noqa: ANN401, as re has it
        """A group; None, as in re, for one that took no part in the match."""
        return self._match[group]

    def group(self, group: int | str = 0) -> bytes | Any:  # noqa: ANN401, as re has it
        """The same by its name in re."""
        return self._match[group]

    def groups(self) -> tuple[bytes | Any, ...]:
        """All groups but the whole match."""
        return self._match.groups()

    def start(self) -> int:
        """Where in `string` the match begins."""
        return len(self.before)

    def end(self) -> int:
        """Where in `string` the match ends, which is its end."""
        return len(self.before) + len(self._match[0])

    def span(self) -> tuple[int, int]:
        """`start` and `end`."""
        return self.start(), self.end()

    def __repr__(self) -> str:
        return f"Found({self._match[0]!r}, index={self.index}, span={self.span()})"
