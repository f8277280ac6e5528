"""The receiver of the 16550A: FIFO, errors of each byte, trigger level, timeout."""

from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Final

from ..clock import Clock
from .reg import (
    UART_FCR_ENABLE_FIFO,
    UART_FCR_R_TRIG_SHIFT,
    UART_LSR_BI,
    UART_LSR_BRK_ERROR_BITS,
    UART_LSR_DR,
    UART_LSR_FE,
    UART_LSR_FIFOE,
    UART_LSR_OE,
    UART_LSR_PE,
)
from .timeout import RxTimeout

FIFO_SIZE: Final = 64
CLEARED_BY_LSR_READ: Final = UART_LSR_BRK_ERROR_BITS | UART_LSR_FIFOE

_TRIGGER_LEVELS: Final = (1, 4, 8, 14)
BYTE_ERRORS: Final = UART_LSR_PE | UART_LSR_FE | UART_LSR_BI


class Receiver:
    """The receiving half of a Serial. Wants the Serial's lock held throughout.

    `lsr` holds the receiver's bits of LSR. An error shows there when its byte
    becomes the oldest, and stays until LSR is read. With the FIFOs off,
    everything behind the oldest byte counts as not having arrived yet.
    Source: PC16550D, Line Status Register; FIFO Interrupt Mode Operation.
    """

    def __init__(
        self, clock: Clock, lock: Lock, on_timeout: Callable[[], None]
    ) -> None:
        self.lsr = 0
        self.fifo: deque[int] = deque()  # byte | its errors << 8, oldest first
        self.timeout = RxTimeout(clock, lock, self._time_out)
        self._on_timeout = on_timeout
        self.reset()

    def reset(self) -> None:
        self.lsr = 0
        self.clear()
        self.configure(0)

    def configure(self, fcr: int) -> None:
        """Take trigger level and mode from FCR. Touches no byte."""
        self._fifo_enabled = bool(fcr & UART_FCR_ENABLE_FIFO)
        self.trigger_level = 1
        if self._fifo_enabled:
            self.trigger_level = _TRIGGER_LEVELS[fcr >> UART_FCR_R_TRIG_SHIFT]

    def clear(self) -> None:
        """Empty the FIFO; errors that LSR showed already stay there."""
        self.fifo.clear()
        self.lsr &= ~(UART_LSR_DR | UART_LSR_FIFOE)
        self.timeout_pending = False
        self.timeout.stop()

    def enqueue(self, data: bytes | bytearray | memoryview) -> int:
        """Append what fits of `data`; return how many bytes that was."""
        taken = min(len(data), FIFO_SIZE - len(self.fifo))
        if taken:
            self.fifo.extend(data[:taken])
            self._arrived()
        return taken

    def receive(self, value: int, errors: int = 0) -> None:
        """Take a byte off the line, which doesn't wait for room."""
        if len(self.fifo) >= FIFO_SIZE:
            self.lsr |= UART_LSR_OE
        else:
            self.fifo.append(value | errors << 8)
            if errors and self._fifo_enabled:
                self.lsr |= UART_LSR_FIFOE
        self._arrived()

    def loop_back(self, value: int) -> None:
        """Take a byte from the transmitter next door.

        Without FIFOs it overwrites RBR, as on a 16450; it can't wait behind,
        for there is no line that it could wait on.
        """
        if self.fifo and not self._fifo_enabled:
            self.fifo[0] = value
            self.lsr |= UART_LSR_OE
            self._arrived()
        else:
            self.receive(value)

    def read_data(self) -> int:
        """RBR: the oldest byte, which is there (LSR.DR)."""
        value = self.fifo.popleft() & 0xFF
        self.timeout_pending = False
        if not self.fifo:
            self.lsr &= ~UART_LSR_DR
            self.timeout.stop()
            return value
        self._reveal_errors()
        if self._fifo_enabled:
            self.timeout.restart()
        return value

    def acknowledge_errors(self) -> None:
        """LSR was read; its bit 7 stays while younger bytes have errors."""
        had_fifo_error = self.lsr & UART_LSR_FIFOE
        self.lsr &= ~CLEARED_BY_LSR_READ
        if had_fifo_error and any(entry > 0xFF for entry in self.fifo):
            self.lsr |= UART_LSR_FIFOE

    def restore(self, lsr: int, data: tuple[int, ...], errors: tuple[int, ...]) -> None:
        """After a reset, take over bytes; then the timeout's state follows."""
        errors += (0,) * (len(data) - len(errors))
        self.fifo.extend(
            byte | error << 8 for byte, error in zip(data, errors, strict=True)
        )
        self.lsr = lsr & CLEARED_BY_LSR_READ | (UART_LSR_DR if data else 0)

    def restore_timeout(self, pending: bool, remaining_ns: int | None) -> None:
        """The timeout was there, comes so soon, or not at all."""
        self.timeout_pending = pending
        if remaining_ns is not None:
            self.timeout.expire_in(remaining_ns)

    def _arrived(self) -> None:
        self.lsr |= UART_LSR_DR
        self._reveal_errors()
        if self._fifo_enabled and not self.timeout_pending:
            self.timeout.restart()

    def _reveal_errors(self) -> None:
        """Show in LSR the errors of the byte that is the oldest now."""
        oldest = self.fifo[0]
        if oldest > 0xFF:
            self.lsr |= oldest >> 8
            self.fifo[0] = oldest & 0xFF

    def _time_out(self) -> None:
        self.timeout_pending = True
        self._on_timeout()
