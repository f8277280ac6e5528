"""The transmitter of the 16550A: the TX FIFO and the way to the sink."""

from collections.abc import Callable
from threading import Lock
from typing import Final

from ..clock import Clock, next_beat
from ..fast_port import FastPort
from ..sink import LossySink, RoomySink, Sink
from .events import SerialEvents, overrides
from .receiver import FIFO_SIZE
from .reg import UART_FCR_ENABLE_FIFO, UART_LSR_TEMT, UART_LSR_THRE

TX_IDLE: Final = UART_LSR_THRE | UART_LSR_TEMT
COLLECT_NS: Final = 16_000_000  # how long a run loop may keep bytes at most

_BYTE: Final = tuple(bytes((value,)) for value in range(256))


class Transmitter:
    """The sending half of a Serial. Wants the Serial's lock held throughout.

    `fifo` holds what the sink had no room for; `lsr` the transmitter's bits of LSR,
    which are clear while it holds anything. `empty_pending`: THR became empty and
    IIR has not said so. `thr` is the port that a run loop may serve: it is lent as
    much as the sink has room for, so that what goes there is as good as sent, and
    what it holds is older than any byte that comes to `send`.
    """

    def __init__(
        self,
        out: Sink,
        events: SerialEvents | None,
        clock: Clock,
        lock: Lock,
        update: Callable[[], None],
    ) -> None:
        self.out = out
        self.fifo = bytearray()
        self.thr = FastPort(posted=True)
        self._write = out.write
        self._room: Callable[[], int] | None = None
        if isinstance(out, RoomySink):
            self._room = out.room
        # What is called for each byte has to be worth it.
        self._events = events
        if events is None or not overrides(events, "out_byte", "tx_lost_byte"):
            self._events = None
        self._lossy = out if isinstance(out, LossySink) else None
        self._dropped = 0 if self._lossy is None else self._lossy.dropped
        self._clock = clock
        self._lock = lock
        self._update = update
        self._lent = False  # there may be bytes in the ring, and the timer is set
        self._may_lend = False
        self.reset()

    def reset(self) -> None:
        """Power on; what waits is lost."""
        self._take()
        self.lose(len(self.fifo))
        self.fifo.clear()
        self.lsr = TX_IDLE
        self.empty_pending = False
        self._offer()

    def restore(self, data: tuple[int, ...], empty_pending: bool) -> None:
        """After a reset, take over what waited."""
        self.fifo += bytes(data)
        self.lsr = 0 if self.fifo else TX_IDLE
        self.empty_pending = empty_pending

    @property
    def is_lent(self) -> bool:
        """Whether a run loop, or KVM, may have bytes for it to send."""
        return self._lent

    def send(self, value: int, fcr: int) -> bool:
        """THR was written: to the sink, or to the FIFO; False if it went no further."""
        if self._lent:
            self._take()
        if not self.fifo and self._write(_BYTE[value]):
            if self._events is not None:
                self._tell_sent(self._events, 1)
            if self._may_lend and self._room is not None and self.thr.in_use:
                self._lend()
            return True
        capacity = FIFO_SIZE if fcr & UART_FCR_ENABLE_FIFO else 1
        if len(self.fifo) >= capacity:
            self.lose(1)
        else:
            self._queue(_BYTE[value])
        self.thr.accept(0)
        return False

    def drain(self) -> None:
        """Give the sink what waits; THRE returns when nothing is left."""
        self._take()
        if self.fifo:
            taken = self._write(bytes(self.fifo))
            del self.fifo[:taken]
            self._sent(taken)
            if not self.fifo:
                self.note_empty()
        self._offer()

    def clear(self) -> None:
        """Empty the FIFO; the bytes are lost."""
        if self.fifo:
            self.lose(len(self.fifo))
            self.fifo.clear()
            self.note_empty()

    def note_empty(self) -> None:
        """THR, or the TX FIFO, became empty."""
        self.lsr = TX_IDLE
        self.empty_pending = True

    def lose(self, count: int) -> None:
        """Tell of bytes that nobody gets."""
        if self._events is not None:
            for _ in range(count):
                self._events.tx_lost_byte()

    def _sent(self, count: int) -> None:
        if self._events is not None:
            self._tell_sent(self._events, count)

    def _tell_sent(self, events: SerialEvents, count: int) -> None:
        """Tell of `count` bytes that the sink took, and which of them it dropped."""
        lost = 0
        if self._lossy is not None:
            lost = self._lossy.dropped - self._dropped
            self._dropped += lost
        for _ in range(count - lost):
            events.out_byte()
        self.lose(lost)

    def _queue(self, data: bytes) -> None:
        self.fifo += data
        self.lsr = 0
        self.empty_pending = False

    # The port that a run loop serves

    def allow_fast_writes(self, may: bool) -> None:
        """Whether a byte to THR does nothing but go to the sink, as things stand."""
        if may != self._may_lend:
            self._may_lend = may
            self.collect()

    def collect(self) -> None:
        """Give the sink what a run loop took for it."""
        self._take()
        self._offer()

    def _take(self) -> int:
        data = self.thr.take()
        if data:
            taken = self._write(data)
            self._sent(taken)
            if taken < len(data):  # it had promised room, but another byte took it
                self._queue(data[taken:])
        return len(data)

    def _lend(self) -> None:
        if not self._lent:
            self._lent = True
            self._set_timer()
        self._offer()

    def _offer(self) -> None:
        """Let a run loop that has the ring write as much as the sink has room for."""
        if not self._lent:
            return
        count = 0
        if self._may_lend and self._room is not None and not self.fifo:
            count = self._room()
        self.thr.accept(count)

    def _set_timer(self) -> None:
        when = next_beat(self._clock.now_ns(), COLLECT_NS)
        self._clock.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        """Collect; take the ring back from a guest that has stopped sending."""
        with self._lock:
            if self._take():
                self._offer()
            else:
                self.thr.accept(0)
                if self.thr.is_quiet() and not self._take():
                    self._lent = False
                    return
            self._set_timer()
            self._update()
