"""HangWatch: finds out that nothing happens any more."""

from collections.abc import Callable
from typing import Final

from ..devices.clock import Clock
from .looks import Looks

LOOKS: Final = 16  # within the limit
LOOK_MIN_NS: Final = 10_000_000
LOOK_MAX_NS: Final = 500_000_000


class HangWatch:
    """Calls `on_hang` when `progress` has stood still for `limit_s` seconds.

    `progress` is anything that compares unequal once the guest has done
    something. It is looked at now and then on the clock's thread, so that the
    silence was at least as long as the limit, and at most a look longer. While it
    goes on, `on_hang` is called again after each further limit. Time in which this
    process was stopped isn't the guest's, and doesn't count.
    """

    def __init__(
        self,
        clock: Clock,
        limit_s: float,
        progress: Callable[[], object],
        on_hang: Callable[[], None],
    ) -> None:
        self._limit_ns = int(limit_s * 1e9)
        self._progress = progress
        self._on_hang = on_hang
        self._seen = progress()
        self._silent_ns = 0
        period = min(max(self._limit_ns // LOOKS, LOOK_MIN_NS), LOOK_MAX_NS)
        self.stop = Looks(clock, period, self._look).stop

    def _look(self, passed_ns: int) -> bool:
        seen = self._progress()
        if seen != self._seen:
            self._seen, self._silent_ns = seen, 0
            return True
        self._silent_ns += passed_ns
        if self._silent_ns >= self._limit_ns:
            self._silent_ns = 0
            self._on_hang()
        return True
