"""TokenBucket: so much a second, and no more than that at once."""

from collections.abc import Callable
from typing import Final

from .clock import Clock

_NS_PER_S: Final = 1_000_000_000
_WAKEUPS_PER_S: Final = 100  # how often, at most, somebody is called


class TokenBucket:
    """Lets `rate` bytes a second through, and `burst` at once after a pause."""

    def __init__(self, rate: int, burst: int, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        # In units of a byte's billionth, so that all is whole numbers.
        self._full = burst * _NS_PER_S
        self._credit = self._full
        self._since_ns = clock.now_ns()

    def tokens(self) -> int:
        """Bytes that may go now."""
        now = self._clock.now_ns()
        earned = (now - self._since_ns) * self._rate
        self._credit = min(self._full, self._credit + earned)
        self._since_ns = now
        return self._credit // _NS_PER_S

    def take(self, count: int) -> int:
        """Let up to `count` bytes go; return how many."""
        count = min(count, self.tokens())
        self._credit -= count * _NS_PER_S
        return count

    def spend(self, count: int) -> None:
        """Let `count` bytes go, and if there aren't so many, the next ones wait."""
        self.tokens()
        self._credit -= count * _NS_PER_S

    def call_when_worthwhile(self, callback: Callable[[], None]) -> None:
        """Call when there are tokens again: rather a few seldom than one often."""
        wanted = max(_NS_PER_S, self._rate * _NS_PER_S // _WAKEUPS_PER_S)
        missing = min(wanted, self._full) - self._credit
        wait_ns = -(-missing // self._rate)
        self._clock.call_at(self._since_ns + wait_ns, callback)
