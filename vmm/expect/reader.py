"""Reader: one reader of the captured console, at its own place."""

import re
import time
from collections.abc import Sequence
from threading import Condition
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, Self

from .. import threads
from ..errors import ExpectTimeout, GuestEnded
from ..foreign_text import printable
from .found import AnyMatch, Found, IsOver, RemoteMatch, SearchAborted
from .search import Pattern, Search

if TYPE_CHECKING:
    from ..result import RunResult
    from .history import History
    from .regex_process import RegexProcesses
    from .regex_worker import Wanted

CHUNK: Final = 64 << 10  # bytes that are looked at in one go
LAST_LINES: Final = 10  # that an error message shows
LAST_BYTES: Final = 8 << 10  # in which they are looked for
PATIENCE_S: Final = 1.0  # to look at what came in time, when the time is over


class Source(Protocol):
    """What keeps the output; `changed` guards all of it."""

    changed: Condition
    history: "History"
    result: "RunResult | None"

    @property
    def processes(self) -> "RegexProcesses":
        """Where it is looked for what may take long."""

    def notify_room(self) -> None:
        """A reader has moved on: there may be room for more."""

    def forget(self, reader: "Reader") -> None:
        """Keep nothing for this one any more."""


class _Deadline:
    """When a wait is over, and when it is for one that has not looked at all yet."""

    def __init__(self, capture: "Source", timeout: float) -> None:
        self.timeout = timeout
        self._capture = capture
        now = time.monotonic()
        self._end = now + timeout
        self._patience_ends = max(now, self._end) + PATIENCE_S
        self._last: int | None = None
        self._result: RunResult | None = None
        self._result_patience_ends = 0.0

    @property
    def left(self) -> float:
        """Seconds in which more may come."""
        return self._end - time.monotonic()

    def is_late(self, place: int) -> bool:
        """Whether what is at `place` came too late. With the lock held.

        A guest may print faster than we look; what an ended one printed is in time.
        """
        if self._last is None and self.left <= 0:
            self._last = self._capture.history.end
        is_last = self._last is not None and place >= self._last
        return is_last and self._capture.result is None

    def is_over(self) -> bool:
        """Whether no more is to be looked at, though it came in time."""
        now = time.monotonic()
        result = self._capture.result
        if result is not self._result:  # None again: the guest was resumed
            self._result, self._result_patience_ends = result, now + PATIENCE_S
        if result is not None and now > self._result_patience_ends:
            return True  # nor does more come
        return now > self._patience_ends


# __tracebackhide__ is for pytest: its report ends, and its pdb begins, with the line of
# the script that has waited in vain.
class Reader:
    """Reads the guest's output from the oldest byte that is kept, beside others.

    Until it is closed nothing that it hasn't read is thrown away; it makes the
    guest wait, or lose output, when it is 64 MiB behind. Any thread may use it; of
    two that wait on one reader each gets what the other has not consumed.
    """

    def __init__(self, capture: "Source") -> None:
        """`CaptureEndpoint.reader` makes one."""
        self._capture = capture
        self.position = capture.history.start
        """Bytes of the guest's output before the next that this one reads."""

    def expect(self, pattern: Pattern, timeout: float = 30) -> Found:
        """Wait for text, taken literally (pexpect has a regex there), or a regex.

        Up to `timeout` seconds; all up to its end is consumed. A regex matches as soon
        as it can: end it with what must follow. Its match lies within 64 KiB; one that
        may take long is looked for in another process, so that the wait ends in time
        whatever it is, within some two seconds.
        Raises ExpectTimeout, which consumes nothing, or GuestEnded at once when the run
        is over and the pattern hasn't come.
        """
        __tracebackhide__ = True
        return self.expect_any([pattern], timeout)

    def expect_any(self, patterns: Sequence[Pattern], timeout: float = 30) -> Found:
        """Wait for the first of several; `index` tells which. As `expect`."""
        __tracebackhide__ = True
        search = Search(patterns, self._elsewhere)
        deadline = _Deadline(self._capture, timeout)
        wanted = " or ".join(repr(_shown(pattern)) for pattern in patterns)
        what = f"no {wanted} on the console"
        changed, history = self._capture.changed, self._capture.history
        while True:
            with changed:
                if search.base != self.position:  # another thread has read on
                    search.restart(self.position)
                data = history.read(search.next, CHUNK)
                if deadline.is_late(search.next):
                    data = b""
                if not data and self._wait(search, what, deadline):
                    continue
            look = deadline.is_over
            try:
                found = search.feed(data, look) if data else search.look(look)
            except SearchAborted:
                with changed:
                    self._give_up(what, timeout, history.end - search.next + len(data))
            if found is not None:
                match, index = found
                before = self._consume(search, match)
                if before is not None:
                    return Found(match, before, index)

    def _wait(self, search: Search, what: str, deadline: "_Deadline") -> bool:
        """Wait for more output, with the lock held. Raises if none is to come.

        False: it is time to look once more at what there is.
        """
        __tracebackhide__ = True
        left = deadline.left
        if not search.owes_look:
            self._complain(what, left, deadline.timeout)
        elif self._capture.result is not None:
            return False
        else:
            left = min(left, search.due - time.monotonic())
            if left <= 0:
                return False
        threads.nap(self._capture.changed, left)
        return True

    def _elsewhere(
        self, wanted: "Sequence[Wanted]", text: bytes, is_over: IsOver
    ) -> "tuple[RemoteMatch, int] | None":
        """Look for what may take long."""
        return self._capture.processes.first_match(wanted, text, is_over)

    def read(self) -> bytes:
        """All that was printed and not yet consumed; consumes it. Doesn't wait."""
        with self._capture.changed:
            end = self._capture.history.end
            data = self._capture.history.read(self.position, end - self.position)
            self.position = end
        self._capture.notify_room()
        return data

    def read_until_idle(self, idle: float = 0.5, timeout: float = 30) -> bytes:
        """Wait until nothing was printed for `idle` seconds; consume what was.

        The guest's end counts as idle. Raises ExpectTimeout, which consumes
        nothing, if it still prints after `timeout` seconds. Output is collected for
        up to 48 ms before it gets here, so less than 0.1 s says little.
        """
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        capture = self._capture
        with capture.changed:
            seen = -1
            while capture.result is None:
                now = time.monotonic()
                if capture.history.end != seen:
                    seen, quiet_at = capture.history.end, now + idle
                if now >= quiet_at:
                    break
                if now >= deadline:
                    what = f"no {idle} s of silence on the console"
                    self._complain(what, deadline - now, timeout)
                threads.nap(capture.changed, min(quiet_at, deadline) - now)
        return self.read()

    def peek(self, limit: int) -> bytes:
        """The next bytes, at most `limit` of them; consumes nothing."""
        with self._capture.changed:
            return self._capture.history.read(self.position, limit)

    def skip(self, count: int) -> None:
        """Consume `count` bytes that `peek` gave."""
        with self._capture.changed:
            self.position += count
        self._capture.notify_room()

    def close(self) -> None:
        """Hold nothing back any more. Idempotent."""
        self._capture.forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _consume(self, search: Search, match: "AnyMatch") -> bytes | None:
        """Read past a match; what came before it, None if another thread read it."""
        with self._capture.changed:
            if search.base != self.position:
                return None
            size = search.place(match.start()) - self.position
            before = self._capture.history.read(self.position, size)
            self.position = search.place(match.end())
        self._capture.notify_room()
        return before

    def _give_up(self, what: str, timeout: float, unread: int) -> NoReturn:
        """Raise, though `unread` bytes were not looked at, with the lock held."""
        __tracebackhide__ = True
        what = f"{what} (its last {unread} bytes were not looked at: it takes too long)"
        self._complain(what, 0, timeout)
        raise AssertionError  # there was no time left

    def _complain(self, what: str, left: float, timeout: float) -> None:
        """Raise, if the wait is over, with the lock held."""
        __tracebackhide__ = True
        result = self._capture.result
        if result is not None:
            when = f"before the guest ended ({result.reason.value})"
            raise GuestEnded(f"{what} {when}; {self._last_lines()}", result)
        if left <= 0:
            raise ExpectTimeout(f"{what} within {timeout} s; {self._last_lines()}")

    def _last_lines(self) -> str:
        history = self._capture.history
        news = self.position < history.end
        start = max(self.position if news else history.start, history.end - LAST_BYTES)
        text = printable(history.read(start, LAST_BYTES)).removesuffix("\n")
        shown = [f"  | {line}" for line in text.split("\n")[-LAST_LINES:] if text]
        head = "it ends:" if news or not shown else "nothing new came after:"
        return "\n".join([head, *(shown or ["  (empty)"])])


def _shown(pattern: Pattern) -> str | bytes:
    return pattern.pattern if isinstance(pattern, re.Pattern) else pattern
