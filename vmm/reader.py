"""Reader: one reader of the captured console, at its own place."""

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Self

from .errors import ExpectTimeout, GuestEnded
from .search import Found, Pattern, Search

if TYPE_CHECKING:
    from .capture import CaptureEndpoint

CHUNK: Final = 64 << 10  # bytes that are looked at in one go
LAST_LINES: Final = 10  # that an error message shows
LAST_BYTES: Final = 8 << 10  # in which they are looked for


class Reader:
    """Reads the guest's output from the oldest byte that is kept, beside others.

    Until it is closed nothing that it hasn't read is thrown away; it makes the
    guest wait, or lose output, when it is 64 MiB behind. Any thread may use it; of
    two that wait on one reader each gets what the other has not consumed.
    """

    def __init__(self, capture: "CaptureEndpoint") -> None:
        """`CaptureEndpoint.reader` makes one."""
        self._capture = capture
        self.position = capture.spool.start
        """Bytes of the guest's output before the next that this one reads."""

    def expect(self, pattern: Pattern, timeout: float = 30) -> Found:
        """Wait up to `timeout` seconds for a str, bytes or regex; consume it all.

        Text is taken literally. A regex matches as soon as it can: end it with
        what must follow. Raises ExpectTimeout, which consumes nothing, or GuestEnded
        at once when the run is over and the pattern hasn't come.
        """
        return self.expect_any([pattern], timeout)

    def expect_any(self, patterns: Sequence[Pattern], timeout: float = 30) -> Found:
        """Wait for the first of several; `index` tells which. As `expect`."""
        search = Search(patterns)
        deadline = time.monotonic() + timeout
        last_look: int | None = None
        wanted = " or ".join(repr(_shown(pattern)) for pattern in patterns)
        changed, spool = self._capture.changed, self._capture.spool
        while True:
            with changed:
                if search.base != self.position:  # another thread has read on
                    search.restart(self.position)
                data = spool.read(search.next, CHUNK)
                left = deadline - time.monotonic()
                if left <= 0 and last_look is None:
                    last_look = spool.end  # a guest may print faster than we look
                late = last_look is not None and search.next >= last_look
                if not data or (late and self._capture.result is None):
                    self._complain(f"no {wanted} on the console", left, timeout)
                    changed.wait(left)
                    continue
            found = search.feed(data)
            if found is not None:
                match, index = found
                before = self._consume(search, match)
                if before is not None:
                    return Found(match, before, index)

    def read(self) -> bytes:
        """All that was printed and not yet consumed; consumes it. Doesn't wait."""
        with self._capture.changed:
            end = self._capture.spool.end
            data = self._capture.spool.read(self.position, end - self.position)
            self.position = end
        self._capture.tell_of_room()
        return data

    def read_until_idle(self, idle: float = 0.5, timeout: float = 30) -> bytes:
        """Wait until nothing was printed for `idle` seconds; consume what was.

        The guest's end counts as idle. Raises ExpectTimeout, which consumes
        nothing, if it still prints after `timeout` seconds. Output is collected for
        up to 48 ms before it gets here, so less than 0.1 s says little.
        """
        deadline = time.monotonic() + timeout
        capture = self._capture
        with capture.changed:
            seen = -1
            while capture.result is None:
                now = time.monotonic()
                if capture.spool.end != seen:
                    seen, quiet_at = capture.spool.end, now + idle
                if now >= quiet_at:
                    break
                if now >= deadline:
                    what = f"no {idle} s of silence on the console"
                    self._complain(what, deadline - now, timeout)
                capture.changed.wait(min(quiet_at, deadline) - now)
        return self.read()

    def peek(self, limit: int) -> bytes:
        """The next bytes, at most `limit` of them; consumes nothing."""
        with self._capture.changed:
            return self._capture.spool.read(self.position, limit)

    def skip(self, count: int) -> None:
        """Consume `count` bytes that `peek` gave."""
        with self._capture.changed:
            self.position += count
        self._capture.tell_of_room()

    def close(self) -> None:
        """Hold nothing back any more. Idempotent."""
        self._capture.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _consume(self, search: Search, match: re.Match[bytes]) -> bytes | None:
        """Read past a match; what came before it, None if another thread read it."""
        with self._capture.changed:
            if search.base != self.position:
                return None
            size = search.place(match.start()) - self.position
            before = self._capture.spool.read(self.position, size)
            self.position = search.place(match.end())
        self._capture.tell_of_room()
        return before

    def _complain(self, what: str, left: float, timeout: float) -> None:
        """Raise, if the wait is over, with the lock held."""
        result = self._capture.result
        if result is not None:
            when = f"before the guest ended ({result.reason.value})"
            raise GuestEnded(f"{what} {when}; {self._last_lines()}", result)
        if left <= 0:
            raise ExpectTimeout(f"{what} within {timeout} s; {self._last_lines()}")

    def _last_lines(self) -> str:
        spool = self._capture.spool
        news = self.position < spool.end
        start = max(self.position if news else spool.start, spool.end - LAST_BYTES)
        text = spool.read(start, LAST_BYTES).decode(errors="backslashreplace")
        shown = [f"  | {line}" for line in text.splitlines()[-LAST_LINES:]]
        head = "it ends:" if news or not shown else "nothing new came after:"
        return "\n".join([head, *(shown or ["  (empty)"])])


def _shown(pattern: Pattern) -> str | bytes:
    return pattern.pattern if isinstance(pattern, re.Pattern) else pattern
