"""Rtc: the ARM PL031 real-time clock, vm-superio's `Rtc` with its alarm.

A counter of seconds, a register to match it, and the PrimeCell's IDs, in 0x1000
bytes of MMIO with registers of 32 bits.

Source: ARM PrimeCell Real Time Clock (PL031) Technical Reference Manual,
DDI 0224, section 3.

The manual's issues differ on a write to RTCCR while the RTC runs. Here, as in
issue B (2001), it has no effect. Issue C (2017) has it set the time to 0, and
vm-superio to the host's: Linux, which writes 1 whenever it probes (pl031_probe
in drivers/rtc/rtc-pl031.c), would lose the time that it had set. QEMU's
hw/rtc/pl031.c ignores the write, too.
"""

import threading
import time
from collections.abc import Callable
from typing import Annotated, Final

from ..clock import Clock
from ..soonest_timer import SoonestTimer
from ..state import State
from ..trigger import Trigger

RTCDR: Final = 0x000  # data: the counter, read only
RTCMR: Final = 0x004  # match
RTCLR: Final = 0x008  # load: sets the counter
RTCCR: Final = 0x00C  # control: bit 0 starts the RTC
RTCIMSC: Final = 0x010  # interrupt mask: 1 enables
RTCRIS: Final = 0x014  # raw interrupt status, read only
RTCMIS: Final = 0x018  # masked interrupt status, read only
RTCICR: Final = 0x01C  # interrupt clear, write only
PERIPH_ID_0: Final = 0xFE0  # eight registers of one byte each
AMBA_IDS: Final = bytes.fromhex("31 10 04 00 0d f0 05 b1")

_SECOND: Final = 1_000_000_000
_MASK: Final = 0xFFFF_FFFF


class RtcEvents:
    """Called by an Rtc for accesses that no register answers.

    Called with the Rtc's lock held: it must neither block nor call back.
    """

    def invalid_read(self) -> None:
        """The guest read where there is nothing to read."""

    def invalid_write(self) -> None:
        """The guest wrote where there is nothing to write."""


class RtcMetrics(RtcEvents):
    """RtcEvents that counts them."""

    def __init__(self) -> None:
        self.invalid_reads = 0
        self.invalid_writes = 0

    def invalid_read(self) -> None:
        self.invalid_reads += 1

    def invalid_write(self) -> None:
        self.invalid_writes += 1


_Bit = Annotated[int, range(2)]
_Word = Annotated[int, range(_MASK + 1)]


class RtcState(State, kw_only=True):
    """What `Rtc.state()` gives and `restore` takes."""

    lr: _Word = 0
    mr: _Word = 0
    imsc: _Bit = 0
    ris: _Bit = 0
    counter_ns: Annotated[int, range((_MASK + 1) * _SECOND)] = 0
    """The counter when the state was taken, in nanoseconds."""


class Rtc:
    """The chip. Its own lock makes it safe to call from any thread.

    The counter starts at `wall_ns()`, in seconds since 1970, and then runs by
    `clock`. `interrupt` gets one edge when RTCMIS rises.
    """

    def __init__(
        self,
        clock: Clock,
        interrupt: Trigger,
        *,
        events: RtcEvents | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.events = RtcEvents() if events is None else events
        self._lock = threading.Lock()
        self._clock = clock
        self._interrupt_line = interrupt
        self._wall_ns = wall_ns
        self._timer = SoonestTimer(clock, self._lock, self._on_timer)
        self._seen_ns = 0  # matches are noticed up to then
        self._mis = 0  # the interrupt line, as far as it has been told
        self._power_on()

    def reset(self) -> None:
        """Return to the power-on state, at the host's time."""
        with self._lock:
            self._power_on()

    def read(self, offset: int) -> int:
        """Read 32 bits at `offset`, 0..0xFFC; where there is no register, 0."""
        with self._lock:
            self._catch_up()
            if offset >= PERIPH_ID_0 and offset % 4 == 0:
                return AMBA_IDS[(offset - PERIPH_ID_0) // 4 % len(AMBA_IDS)]
            registers = {
                RTCDR: self._counter_ns(self._seen_ns) // _SECOND & _MASK,
                RTCMR: self._mr,
                RTCLR: self._lr,
                RTCCR: 1,  # started, as firmware leaves it
                RTCIMSC: self._imsc,
                RTCRIS: self._ris,
                RTCMIS: self._ris & self._imsc,
            }
            if offset not in registers:
                self.events.invalid_read()
            return registers.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Write 32 bits at `offset`; where there is no register, ignored.

        RTCLR sets the counter. RTCCR may be written, without effect: the RTC
        has been started, which no write undoes.
        """
        with self._lock:
            self._catch_up()
            if offset == RTCMR:
                self._mr = value & _MASK
                self._match(0)
            elif offset == RTCLR:
                self._lr = value & _MASK
                self._load_counter(self._lr)
            elif offset == RTCIMSC:
                self._imsc = value & 1
            elif offset == RTCICR:
                self._ris &= ~value
            elif offset != RTCCR:
                self.events.invalid_write()
            self._raise()
            self._set_timer()

    def state(self) -> RtcState:
        """All of it."""
        with self._lock:
            self._catch_up()
            counter_ns = self._counter_ns(self._seen_ns) % ((_MASK + 1) * _SECOND)
            return RtcState(
                lr=self._lr,
                mr=self._mr,
                imsc=self._imsc,
                ris=self._ris,
                counter_ns=counter_ns,
            )

    def restore(self, state: State | None) -> None:
        """Go on from `state`: the time from when it was saved.

        An interrupt that was pending is raised again. Raises InvalidState, and
        TriggerError with everything done but that.
        """
        new = RtcState.of(state)
        with self._lock:
            self._load(new)
            self._set_timer()
            self._raise()

    def _power_on(self) -> None:
        self._load(RtcState())
        self._offset_ns = self._wall_ns() - self._seen_ns

    def _load(self, state: RtcState) -> None:
        self._lr = state.lr
        self._mr = state.mr
        self._imsc = state.imsc
        self._ris = state.ris
        self._mis = 0
        self._seen_ns = self._clock.now_ns()
        self._offset_ns = state.counter_ns - self._seen_ns

    def _counter_ns(self, clock_ns: int) -> int:
        return clock_ns + self._offset_ns

    def _load_counter(self, value: int) -> None:
        now = self._counter_ns(self._seen_ns) // _SECOND & _MASK
        self._offset_ns += (value - now) * _SECOND
        self._match(0)

    def _catch_up(self) -> None:
        """Notice a match since this was last called."""
        before = self._counter_ns(self._seen_ns) // _SECOND
        self._seen_ns = self._clock.now_ns()
        self._match(self._counter_ns(self._seen_ns) // _SECOND - before - 1)
        self._raise()

    def _match(self, seconds: int) -> None:
        """Set RIS if the counter was at RTCMR within the last `seconds`, or is."""
        now = self._counter_ns(self._seen_ns) // _SECOND
        if seconds >= 0 and (now - self._mr & _MASK) <= seconds:
            self._ris = 1

    def _raise(self) -> None:
        before, self._mis = self._mis, self._ris & self._imsc
        if self._mis > before:
            self._interrupt_line.trigger()

    def _set_timer(self) -> None:
        if self._ris or not self._imsc:
            return
        counter_ns = self._counter_ns(self._seen_ns)
        seconds = (self._mr - counter_ns // _SECOND - 1 & _MASK) + 1
        wait_ns = seconds * _SECOND - counter_ns % _SECOND
        self._timer.run_by(self._seen_ns + wait_ns)

    def _on_timer(self) -> None:
        self._catch_up()
        self._set_timer()
