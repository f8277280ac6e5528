"""CaptureEndpoint: keeps the guest's output for `expect`, in bounded memory."""

import re
import threading
import time
from collections.abc import Callable
from typing import Final, Self

from .errors import VmmError
from .result import RunResult

CAPTURE_LIMIT: Final = 64 << 20  # bytes that nobody has expected yet
LAST_LINES: Final = 10  # that an error message shows

Pattern = str | bytes | re.Pattern[bytes]


class ExpectTimeout(VmmError, TimeoutError):
    """The pattern did not come in time; the message shows the last lines."""


class GuestEnded(VmmError):
    """The pattern can't come any more: the run is over, as `result` tells."""

    def __init__(self, message: str, result: RunResult) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[type[Self], tuple[str, RunResult]]:
        """So that it may come back from another process."""
        return type(self), (str(self), self.result)


class CaptureEndpoint:
    """Holds what the guest printed until somebody has expected it.

    At `limit` bytes it takes no more, so that the sink's policy applies:
    the guest is held, or its output dropped. `on_room` is called when it takes
    more again, on the thread of whoever made the room.
    """

    may_be_early = False

    def __init__(self, on_room: Callable[[], None], limit: int = CAPTURE_LIMIT) -> None:
        self._on_room = on_room
        self._limit = limit
        self._refused = False
        self._buffer = bytearray()
        self._changed = threading.Condition()
        self._result: RunResult | None = None

    def write(self, data: bytes) -> int:
        with self._changed:
            taken = data[: self._limit - len(self._buffer)]
            self._buffer += taken
            self._refused = len(taken) < len(data)
            self._changed.notify_all()
        return len(taken)

    def resume_input(self) -> None:
        """There is none to pause."""

    def close(self) -> None:
        """Nothing to release."""

    def end(self, result: RunResult) -> None:
        """No more output will come."""
        with self._changed:
            self._result = result
            self._changed.notify_all()

    def read(self) -> bytes:
        """What nobody has expected yet; it counts as expected now."""
        with self._changed:
            data = bytes(self._buffer)
            self._buffer.clear()
        self._tell_of_room()
        return data

    def expect(self, pattern: Pattern, timeout: float) -> re.Match[bytes]:
        """Wait up to `timeout` seconds for `pattern`; consume all up to its end.

        Raises ExpectTimeout, or GuestEnded at once when the guest has ended
        without printing it.
        """
        regex = _compile(pattern)
        deadline = time.monotonic() + timeout
        with self._changed:
            while regex.search(self._buffer) is None:
                if self._result is not None:
                    reason = self._result.reason.value
                    raise GuestEnded(
                        self._complaint(pattern, f"before the guest ended ({reason})"),
                        self._result,
                    )
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ExpectTimeout(self._complaint(pattern, f"within {timeout} s"))
                self._changed.wait(left)
            match = regex.search(bytes(self._buffer))  # a copy that outlives it
            assert match is not None
            del self._buffer[: match.end()]
        self._tell_of_room()
        return match

    def _tell_of_room(self) -> None:
        if self._refused:
            self._on_room()

    def _complaint(self, pattern: Pattern, when: str) -> str:
        lines = bytes(self._buffer).decode(errors="backslashreplace").splitlines()
        shown = "\n".join(f"  | {line}" for line in lines[-LAST_LINES:])
        wanted = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
        return f"no {wanted!r} on the console {when}; it ends:\n{shown or '  (empty)'}"


def _compile(pattern: Pattern) -> re.Pattern[bytes]:
    if isinstance(pattern, str):
        pattern = pattern.encode()
    if isinstance(pattern, bytes):
        return re.compile(re.escape(pattern))
    return pattern
