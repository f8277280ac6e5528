"""SoonestTimer: one timer on the clock, for whatever a device has to do soonest."""

from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Final

from .clock import Clock, Timer

# No timer is set further ahead, so that those which a guest makes us replace
# are soon gone from the clock's queue.
HORIZON_NS: Final = 60_000_000_000


class SoonestTimer:
    """Runs `callback` at the soonest of the times that were asked for.

    It may run sooner than anybody still wants: a device looks at the clock to
    see what is due, and asks for the next time. All methods want `lock` held,
    and `callback` is called with it held, on the clock's thread.
    """

    def __init__(self, clock: Clock, lock: Lock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._lock = lock
        self._callback = callback
        self._timer: Timer | None = None
        self._due_ns = 0

    def run_by(self, when_ns: int) -> None:
        """Run the callback when `when_ns` has come, or sooner.

        A time that has passed means as soon as possible, but never inside
        this call.
        """
        if self._timer is not None:
            if self._due_ns <= when_ns:
                return  # the callback will ask again
            self._timer.cancel()
        self._due_ns = due_ns = min(when_ns, self._clock.now_ns() + HORIZON_NS)
        self._timer = self._clock.call_at(due_ns, partial(self._on_timer, due_ns))

    def _on_timer(self, due_ns: int) -> None:
        with self._lock:
            if self._timer is None or due_ns != self._due_ns:
                return  # was cancelled too late: it waited for the lock
            self._timer = None
            self._callback()
