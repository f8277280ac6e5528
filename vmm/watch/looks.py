"""Looks: looking at something now and then, by time in which we ran ourselves."""

from collections.abc import Callable

from ..devices.clock import Clock, Timer


class Looks:
    """Calls `look` every `period_ns` on the clock's thread, until it returns False.

    It is told how many nanoseconds have passed since the last time, of which those
    don't count in which this process stood still (SIGSTOP, a container that is paused,
    a freezer): of a look that comes late no more than twice the period. What the guest
    could have done meanwhile nobody would have seen, if it ran at all.
    """

    def __init__(
        self, clock: Clock, period_ns: int, look: Callable[[int], bool]
    ) -> None:
        self._clock = clock
        self._period_ns = period_ns
        self._call = look
        self._last_ns = clock.now_ns()
        self._timer = self._next_timer()

    def stop(self) -> None:
        """Look no more; while none is at work."""
        self._timer.cancel()

    def _next_timer(self) -> Timer:
        return self._clock.call_at(self._clock.now_ns() + self._period_ns, self._look)

    def _look(self) -> None:
        now = self._clock.now_ns()
        passed, self._last_ns = now - self._last_ns, now
        if self._call(min(passed, 2 * self._period_ns)):
            self._timer = self._next_timer()
