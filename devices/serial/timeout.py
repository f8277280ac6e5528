"""The character timeout of the 16550A's receiver."""

from collections.abc import Callable
from threading import Lock

from ..clock import Clock
from ..soonest_timer import SoonestTimer
from .reg import (
    UART_LCR_PARITY,
    UART_LCR_STOP,
    UART_LCR_WLEN5,
    UART_LCR_WLEN8,
)

_INPUT_CLOCK_HZ = 1_843_200  # the PC's crystal: divisor 1 is 115200 baud
_CLOCKS_PER_BIT = 16
_TIMEOUT_CHARACTERS = 4


def timeout_ns(divisor: int, lcr: int) -> int:
    """Four character times in nanoseconds.

    A divisor of 0, with which a real chip has no baud rate, counts as 1.
    Source: PC16550D, FIFO Interrupt Mode Operation; Line Control Register.
    """
    word_length = lcr & UART_LCR_WLEN8
    half_bits = 2 * (1 + 5 + word_length)
    if lcr & UART_LCR_PARITY:
        half_bits += 2
    if not lcr & UART_LCR_STOP:
        half_bits += 2
    else:
        half_bits += 3 if word_length == UART_LCR_WLEN5 else 4
    clocks = _TIMEOUT_CHARACTERS * half_bits * _CLOCKS_PER_BIT * (divisor or 1)
    return clocks * 1_000_000_000 // (2 * _INPUT_CLOCK_HZ)


class RxTimeout:
    """Calls `expired` when no `restart` came for `delay_ns`.

    A restart happens at every byte, so it only moves a deadline: the one timer
    that is outstanding looks at the deadline when it runs, and sets itself
    again if that has moved. All methods want `lock` held, and `expired` is
    called with it held, on the clock's thread.
    """

    def __init__(self, clock: Clock, lock: Lock, expired: Callable[[], None]) -> None:
        self.delay_ns = 0
        self._clock = clock
        self._expired = expired
        self._deadline_ns: int | None = None
        self._timer = SoonestTimer(clock, lock, self._on_timer)

    def restart(self) -> None:
        """Expire `delay_ns` from now, and not before."""
        self.expire_in(self.delay_ns)

    def expire_in(self, ns: int) -> None:
        """Expire `ns` from now, and not before."""
        self._deadline_ns = self._clock.now_ns() + ns
        self._timer.run_by(self._deadline_ns)

    def stop(self) -> None:
        """Don't expire until restarted."""
        self._deadline_ns = None

    def remaining_ns(self) -> int | None:
        """Time left until it expires, at least 0; None while it is stopped."""
        if self._deadline_ns is None:
            return None
        return max(0, self._deadline_ns - self._clock.now_ns())

    def _on_timer(self) -> None:
        if self._deadline_ns is None:
            return
        if self._clock.now_ns() < self._deadline_ns:
            self._timer.run_by(self._deadline_ns)
            return
        self._deadline_ns = None
        self._expired()
