"""CmosRtc: the PC's real-time clock and its CMOS RAM, an MC146818A.

Two registers: the index, offset 0 (port 0x70), whose bit 7 masks NMIs, and the
data at that index, offset 1 (port 0x71). Nothing here ticks: what a running
chip would have done is worked out when somebody looks, and one timer at most
waits for the next interrupt that the guest has enabled.

Source: Motorola MC146818A data sheet. Names of registers and bits are those of
``linux/mc146818rtc.h``.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Final

from ..clock import Clock
from ..soonest_timer import SoonestTimer
from ..state import Nanoseconds, State
from ..trigger import Trigger
from . import calendar_registers as calendar
from .calendar_registers import (
    DATE_REGISTERS,
    RTC_HOURS_ALARM,
    RTC_MINUTES_ALARM,
    RTC_SECONDS_ALARM,
)

CMOS_SIZE: Final = 128
RTC_PORT_INDEX: Final = 0
RTC_PORT_DATA: Final = 1
NMI_DISABLE: Final = 0x80  # in the index

RTC_REG_A: Final = 0x0A
RTC_UIP: Final = 0x80  # an update is about to begin
RTC_DIV_RESET: Final = 0x60  # both set: the divider is held
RTC_RATE_SELECT: Final = 0x0F
RTC_REG_B: Final = 0x0B
RTC_SET: Final = 0x80  # no updates: the guest sets the time
RTC_PIE: Final = 0x40  # enables the periodic,
RTC_AIE: Final = 0x20  # the alarm
RTC_UIE: Final = 0x10  # and the update-ended interrupt
RTC_REG_C: Final = 0x0C  # read only, cleared by reading
RTC_IRQF: Final = 0x80  # the interrupt line
RTC_PF: Final = RTC_PIE
RTC_AF: Final = RTC_AIE
RTC_UF: Final = RTC_UIE
RTC_REG_D: Final = 0x0D  # read only
RTC_VRT: Final = 0x80  # the battery is good

_RESET_A: Final = 0x26  # 32,768 Hz time base, 1024 Hz rate: what firmware leaves
_RESET_B: Final = 0x02  # 24 hours, BCD

_ENABLES: Final = RTC_PIE | RTC_AIE | RTC_UIE
_SECOND: Final = 1_000_000_000
_BASE_HZ: Final = 32_768
_UIP_NS: Final = 244_000  # UIP rises so long before the update
_FIRST_UPDATE_NS: Final = _SECOND // 2  # after the divider was let go
# The rates 2048, 4096 and 8192 Hz are told to the guest at most at this pace,
# ticks merging as they do in a real chip when nobody reads register C in time:
# a guest must not keep our thread of timers busy.
MIN_INTERRUPT_NS: Final = _SECOND // 1024

# The century has two digits.
_FIRST_NS: Final = -62_167_219_200 * _SECOND  # the year 0
_END_NS: Final = 253_402_300_800 * _SECOND  # the year 10,000


class CmosRtcState(State, kw_only=True):
    """What `CmosRtc.state()` gives and `restore` takes."""

    ram: Annotated[bytes, range(CMOS_SIZE, CMOS_SIZE + 1)]
    """All registers; those of the time count only while it stands still."""
    epoch_ns: Annotated[int, range(_FIRST_NS, _END_NS)]
    """The time, in nanoseconds since 1970, when the state was taken."""
    index: Annotated[int, range(CMOS_SIZE)] = 0
    nmi_disabled: bool = False
    weekday_offset: Annotated[int, range(7)] = 0
    """By how many days the day of the week is ahead of the date's own."""
    unseen_ns: Nanoseconds = 0
    """For so long nobody has looked what happened: register C is of before."""
    quiet_ns: Annotated[int, range(MIN_INTERRUPT_NS + 1)] = 0
    """For so long no timer raises the next interrupt."""

    def __post_init__(self) -> None:
        super().__post_init__()
        flags = self.ram[RTC_REG_C]
        self.require(not self.ram[RTC_REG_A] & RTC_UIP, "UIP is never kept")
        self.require(not flags & 0x0F, "register C has the upper four bits only")
        self.require(self.ram[RTC_REG_D] == RTC_VRT, "register D is VRT")
        self.require(
            bool(flags & RTC_IRQF) == bool(flags & self.ram[RTC_REG_B] & _ENABLES),
            "IRQF is set while an enabled flag is",
        )


class CmosRtc:
    """The chip. Its own lock makes it safe to call from any thread.

    It starts at `wall_ns()`, nanoseconds since 1970 in UTC, and then runs by
    `clock`; the guest may set it. `interrupt` is IRQ 8: one edge when
    register C's IRQF rises, and none until the guest has read register C. `setup` is
    what firmware has put into the RAM, by register.
    """

    def __init__(
        self,
        clock: Clock,
        interrupt: Trigger,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        setup: Mapping[int, int] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._setup = dict(setup or {})
        self._clock = clock
        self._interrupt_line = interrupt
        self._wall_ns = wall_ns
        self._timer = SoonestTimer(clock, self._lock, self._on_timer)
        self._due_ns: int | None = None  # the next interrupt that can be foreseen
        self._power_on()

    @property
    def nmi_disabled(self) -> bool:
        """Whether bit 7 of the index was set by the guest's last write there."""
        return self._nmi_disabled

    def reset(self) -> None:
        """Return to the power-on state: RAM as set up, time taken from the host."""
        with self._lock:
            self._power_on()

    def read(self, offset: int) -> int:
        """Read the data (1), 0..0xFF; the index can't be read: all ones."""
        if offset != RTC_PORT_DATA:
            return 0xFF
        with self._lock:
            self._catch_up()
            value = self._read_register(self._index)
            self._set_timer()
            return value

    def write(self, offset: int, value: int) -> None:
        """Write `value`, 0..0xFF, to the index (0) or the data (1)."""
        with self._lock:
            if offset == RTC_PORT_INDEX:
                self._index = value & ~NMI_DISABLE
                self._nmi_disabled = bool(value & NMI_DISABLE)
            elif offset == RTC_PORT_DATA:
                self._catch_up()
                self._write_register(self._index, value)
                self._set_timer()

    def state(self) -> CmosRtcState:
        """All of it. Looks at nothing, so that no interrupt comes sooner for it."""
        with self._lock:
            now = self._clock.now_ns()
            # After the year 9999 comes the year 0, whose days of the week are the same.
            since_0_ns = self._epoch_ns(now) - _FIRST_NS
            return CmosRtcState(
                ram=bytes(self._ram),
                index=self._index,
                nmi_disabled=self._nmi_disabled,
                epoch_ns=since_0_ns % (_END_NS - _FIRST_NS) + _FIRST_NS,
                weekday_offset=self._weekday_offset,
                unseen_ns=now - self._seen_ns,
                quiet_ns=max(self._quiet_until_ns - now, 0),
            )

    def restore(self, state: State | None) -> None:
        """Go on from `state`: the time from when it was saved.

        An interrupt that was pending is raised again. Raises InvalidState, and
        TriggerError with everything done but that.
        """
        new = CmosRtcState.of(state)
        with self._lock:
            self._load(new)
            self._set_timer()
            if self._ram[RTC_REG_C] & RTC_IRQF:
                self._interrupt_line.trigger()

    def _power_on(self) -> None:
        ram = bytearray(CMOS_SIZE)
        for register, value in self._setup.items():
            ram[register] = value
        ram[RTC_REG_A] = _RESET_A
        ram[RTC_REG_B] = _RESET_B
        ram[RTC_REG_D] = RTC_VRT
        self._load(CmosRtcState(ram=bytes(ram), epoch_ns=self._wall_ns()))

    def _load(self, state: CmosRtcState) -> None:
        # The registers of the time are valid here only while it stands still.
        self._ram = bytearray(state.ram)
        self._index = state.index
        self._nmi_disabled = state.nmi_disabled
        self._weekday_offset = state.weekday_offset
        now = self._clock.now_ns()
        self._seen_ns = now - state.unseen_ns  # register C is right up to then
        self._offset_ns = state.epoch_ns - now
        self._quiet_until_ns = now + state.quiet_ns
        self._due_ns = None

    # --- time ------------------------------------------------------------

    def _epoch_ns(self, clock_ns: int) -> int:
        return clock_ns + self._offset_ns

    def _divider_is_held(self) -> bool:
        return self._ram[RTC_REG_A] & RTC_DIV_RESET == RTC_DIV_RESET

    def _is_stopped(self) -> bool:
        return bool(self._ram[RTC_REG_B] & RTC_SET) or self._divider_is_held()

    def _period(self) -> int:
        """Ticks of the time base from one periodic interrupt to the next, or 0."""
        rate = self._ram[RTC_REG_A] & RTC_RATE_SELECT
        if rate in (1, 2):
            rate += 7  # a 32 kHz time base has no faster rate than 8192 Hz
        return 1 << rate - 1 if rate else 0

    def _next_alarm(self, second: int) -> int | None:
        hours, minutes, seconds = (
            self._ram[at]
            for at in (RTC_HOURS_ALARM, RTC_MINUTES_ALARM, RTC_SECONDS_ALARM)
        )
        alarm = calendar.decode_alarm(hours, minutes, seconds, self._ram[RTC_REG_B])
        return None if alarm is None else calendar.next_match(second, alarm)

    def _catch_up(self) -> None:
        """Set the flags of all that has happened since this was last called."""
        before, now = self._epoch_ns(self._seen_ns), self._clock.now_ns()
        self._seen_ns = now
        after = self._epoch_ns(now)
        if self._divider_is_held():
            return
        flags = 0
        period = self._period()
        if period and _ticks(before) // period != _ticks(after) // period:
            flags |= RTC_PF
        if not self._is_stopped() and before // _SECOND != after // _SECOND:
            flags |= RTC_UF
            alarm = self._next_alarm(before // _SECOND)
            if alarm is not None and alarm <= after // _SECOND:
                flags |= RTC_AF
        self._ram[RTC_REG_C] |= flags
        self._raise()

    # --- interrupt -------------------------------------------------------

    def _raise(self) -> None:
        flags = self._ram[RTC_REG_C]
        if flags & RTC_IRQF or not flags & self._ram[RTC_REG_B] & _ENABLES:
            return
        self._ram[RTC_REG_C] |= RTC_IRQF
        self._quiet_until_ns = self._seen_ns + MIN_INTERRUPT_NS
        self._interrupt_line.trigger()

    def _next_event_ns(self) -> int | None:
        """The epoch time at which the next enabled flag rises."""
        enables = self._ram[RTC_REG_B] & _ENABLES
        if not enables or self._ram[RTC_REG_C] & RTC_IRQF or self._divider_is_held():
            return None  # no further edge before C is read, or no time
        now = self._epoch_ns(self._seen_ns)
        second = now // _SECOND
        events = []
        period = self._period()
        if enables & RTC_PIE and period:
            tick = (_ticks(now) // period + 1) * period
            events.append(-(-tick * _SECOND // _BASE_HZ))
        if enables & RTC_UIE and not self._is_stopped():
            events.append((second + 1) * _SECOND)
        if enables & RTC_AIE and not self._is_stopped():
            alarm = self._next_alarm(second)
            if alarm is not None:
                events.append(alarm * _SECOND)
        return min(events, default=None)

    def _set_timer(self) -> None:
        event_ns = self._next_event_ns()
        self._due_ns = None
        if event_ns is not None:
            self._due_ns = max(event_ns - self._offset_ns, self._quiet_until_ns)
            self._timer.run_by(self._due_ns)

    def _on_timer(self) -> None:
        if self._due_ns is None:
            return
        if self._clock.now_ns() >= self._due_ns:
            self._catch_up()
        self._set_timer()

    # --- registers -------------------------------------------------------

    def _read_register(self, index: int) -> int:
        if index in DATE_REGISTERS and not self._is_stopped():
            return self._date()[index]
        value = self._ram[index]
        if index == RTC_REG_A and not self._is_stopped():
            phase_ns = self._epoch_ns(self._seen_ns) % _SECOND
            return value | (RTC_UIP if phase_ns >= _SECOND - _UIP_NS else 0)
        if index == RTC_REG_C:
            self._ram[RTC_REG_C] = 0
        return value

    def _write_register(self, index: int, value: int) -> None:
        if index == RTC_REG_A:
            self._write_control(index, value & ~RTC_UIP)
        elif index == RTC_REG_B:
            if value & ~self._ram[RTC_REG_B] & RTC_SET:
                value &= ~RTC_UIE  # SET going high clears it
            self._write_control(index, value)
        elif index in DATE_REGISTERS and not self._is_stopped():
            self._set_date(self._date() | {index: value})
        elif index not in (RTC_REG_C, RTC_REG_D):
            self._ram[index] = value

    def _write_control(self, index: int, value: int) -> None:
        """Write register A or B, which can stop the time and let it go on."""
        was_stopped, was_held = self._is_stopped(), self._divider_is_held()
        date = self._date()
        self._ram[index] = value
        if not was_stopped and self._is_stopped():
            for at, now in date.items():
                self._ram[at] = now
        if was_held and not self._divider_is_held():
            phase_ns = self._epoch_ns(self._seen_ns) % _SECOND
            self._offset_ns += _FIRST_UPDATE_NS - phase_ns
        if was_stopped and not self._is_stopped():
            self._set_date({at: self._ram[at] for at in DATE_REGISTERS})
        if not self._ram[RTC_REG_C] & self._ram[RTC_REG_B] & _ENABLES:
            self._ram[RTC_REG_C] &= ~RTC_IRQF
        self._raise()

    def _date(self) -> dict[int, int]:
        """The registers of the time, were it running."""
        second = self._epoch_ns(self._seen_ns) // _SECOND
        return calendar.encode(second, self._weekday_offset, self._ram[RTC_REG_B])

    def _set_date(self, registers: dict[int, int]) -> None:
        """Make it the time that `registers` say; the next update comes no sooner."""
        second, self._weekday_offset = calendar.decode(registers, self._ram[RTC_REG_B])
        now = self._epoch_ns(self._seen_ns) // _SECOND
        self._offset_ns += (second - now) * _SECOND


def _ticks(epoch_ns: int) -> int:
    return epoch_ns * _BASE_HZ // _SECOND
