"""HangWatch: finds out that nothing happens any more."""

from collections.abc import Callable
from typing import Final

from .devices.clock import Clock

LOOKS: Final = 16  # within the limit
LOOK_MIN_NS: Final = 10_000_000
LOOK_MAX_NS: Final = 500_000_000


class HangWatch:
    """Calls `on_hang` when `progress` has stood still for `limit_s` seconds.

    `progress` is anything that compares unequal once the guest has done
    something. It is looked at now and then on the clock's thread, so that the
    silence was at least as long as the limit, and at most a look longer. While it
    goes on, `on_hang` is called again after each further limit.
    """

    def __init__(
        self,
        clock: Clock,
        limit_s: float,
        progress: Callable[[], object],
        on_hang: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._limit_ns = int(limit_s * 1e9)
        self._look_ns = min(max(self._limit_ns // LOOKS, LOOK_MIN_NS), LOOK_MAX_NS)
        self._progress = progress
        self._on_hang = on_hang
        self._seen = progress()
        self._since_ns = clock.now_ns()
        self._set_timer()

    def _set_timer(self) -> None:
        self._timer = self._clock.call_at(
            self._clock.now_ns() + self._look_ns, self._look
        )

    def _look(self) -> None:
        now, seen = self._clock.now_ns(), self._progress()
        if seen != self._seen:
            self._seen, self._since_ns = seen, now
        elif now - self._since_ns >= self._limit_ns:
            self._since_ns = now
            self._on_hang()
        self._set_timer()
