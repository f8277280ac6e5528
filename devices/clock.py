"""Clock: the one way time comes into a device; the host's, and a virtual one."""

import heapq
import time
from collections.abc import Callable
from itertools import count
from typing import Protocol


class Timer(Protocol):
    """A callback that is due later."""

    def cancel(self) -> None:
        """Forget the callback. Does nothing when it has run or was cancelled."""


class Clock(Protocol):
    """Monotonic time with timers."""

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never goes back."""

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        """Call `callback` once when `now_ns()` has reached `when_ns`.

        Callable from any thread. The callback runs on the clock's own thread
        and must not block; a time that has passed means as soon as possible,
        but never inside this call, so that a device may call it under its lock.
        """


def next_beat(now_ns: int, period_ns: int) -> int:
    """The next multiple of `period_ns`: who waits for it wakes the host together."""
    return (now_ns // period_ns + 1) * period_ns


class SystemClock:
    """The host's monotonic time, for a chip that stands alone.

    Every timer is a thread of its own: whoever has many devices has a loop.
    """

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        from threading import Timer as TimerThread

        timer = TimerThread(max(0, when_ns - self.now_ns()) / 1e9, callback)
        timer.daemon = True
        timer.start()
        return timer


class _VirtualTimer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualClock:
    """A Clock that stands still until a test advances it."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._order = count()
        self._timers: list[tuple[int, int, _VirtualTimer]] = []

    def now_ns(self) -> int:
        return self._now_ns

    def call_at(self, when_ns: int, callback: Callable[[], None]) -> Timer:
        timer = _VirtualTimer(callback)
        heapq.heappush(self._timers, (when_ns, next(self._order), timer))
        return timer

    def advance(self, delta_ns: int) -> None:
        """Let `delta_ns` pass, running what falls due in the order it is due."""
        end = self._now_ns + delta_ns
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            self._now_ns = max(self._now_ns, when)
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()
        self._now_ns = end
