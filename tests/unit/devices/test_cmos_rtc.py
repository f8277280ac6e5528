"""CmosRtc: one test per rule of the MC146818A."""

import json
from calendar import timegm
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serial_rig import CountingTrigger

from vmm.devices import calendar_registers as calendar
from vmm.devices.clock import VirtualClock
from vmm.devices.cmos_rtc import CmosRtc
from vmm.devices.cmos_rtc_state import CmosRtcState
from vmm.devices.errors import InvalidState

SECOND = 1_000_000_000
SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = range(6)
DAY_OF_WEEK, DAY_OF_MONTH, MONTH, YEAR, A, B, C, D = range(6, 14)
CENTURY = 0x32
UIP, DIV_RESET = 0x80, 0x70
SET, PIE, AIE, UIE, DM, H24 = 0x80, 0x40, 0x20, 0x10, 0x04, 0x02
IRQF, PF, AF, UF = 0x80, 0x40, 0x20, 0x10
TIME = (HOURS, MINUTES, SECONDS)
DATE = (CENTURY, YEAR, MONTH, DAY_OF_MONTH, DAY_OF_WEEK)

# Tuesday, 2024-02-27 22:58:57.25 UTC
WALL_NS = timegm((2024, 2, 27, 22, 58, 57)) * SECOND + SECOND // 4


class Rig:
    """An RTC on a clock that stands still, and the guest's accesses."""

    def __init__(self) -> None:
        self.clock = VirtualClock(123)
        self.irq8 = CountingTrigger()
        self.wall_ns = WALL_NS
        self.rtc = CmosRtc(self.clock, self.irq8, wall_ns=lambda: self.wall_ns)

    def __getitem__(self, index: int) -> int:
        self.rtc.write(0, index)
        return self.rtc.read(1)

    def __setitem__(self, index: int, value: int) -> None:
        self.rtc.write(0, index)
        self.rtc.write(1, value)

    def get(self, registers: tuple[int, ...]) -> list[int]:
        return [self[at] for at in registers]

    def to_next_second(self) -> None:
        self.clock.advance(SECOND * 3 // 4)


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- time ----------------------------------------------------------------


def test_the_time_at_power_on_is_the_hosts_in_bcd_and_24_hours(rig: Rig) -> None:
    assert rig.get(TIME) == [0x22, 0x58, 0x57]
    assert rig.get(DATE) == [0x20, 0x24, 0x02, 0x27, 3]
    assert rig.get((A, B, C, D)) == [0x26, H24, 0, 0x80]


def test_the_seconds_change_with_the_hosts(rig: Rig) -> None:
    rig.clock.advance(SECOND * 3 // 4 - 1)
    assert rig[SECONDS] == 0x57
    rig.clock.advance(1)
    assert rig[SECONDS] == 0x58


def test_the_time_runs_over_leap_days_by_the_clock(rig: Rig) -> None:
    rig.clock.advance(86_400 * SECOND + 3_663 * SECOND)
    assert rig.get(TIME) == [0x00, 0x00, 0x00]
    assert rig.get(DATE) == [0x20, 0x24, 0x02, 0x29, 5]


def test_binary_mode(rig: Rig) -> None:
    rig[B] = H24 | DM
    assert rig.get(TIME + DATE) == [22, 58, 57, 20, 24, 2, 27, 3]


@pytest.mark.parametrize(
    ("hour", "register"), [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (23, 0x91)]
)
def test_12_hour_mode(rig: Rig, hour: int, register: int) -> None:
    rig[B] = H24 | DM
    rig[HOURS] = hour
    rig[B] = 0
    assert rig[HOURS] == register
    rig[HOURS] = register
    rig[B] = H24 | DM
    assert rig[HOURS] == hour


def test_a_register_written_while_running_is_the_time_at_once(rig: Rig) -> None:
    rig[MINUTES] = 0x30
    rig[YEAR] = 0x99
    assert rig.get(TIME + DATE) == [0x22, 0x30, 0x57, 0x20, 0x99, 0x02, 0x27, 3]
    rig.to_next_second()
    assert rig[SECONDS] == 0x58


def test_set_holds_the_time_and_takes_what_is_written(rig: Rig) -> None:
    rig[B] = H24 | SET
    rig.clock.advance(10 * SECOND)
    assert rig[SECONDS] == 0x57
    for at, value in zip(TIME + DATE, (1, 2, 3, 0x20, 0x30, 5, 6, 4), strict=True):
        rig[at] = value
    assert rig.get(TIME) == [1, 2, 3]
    rig[B] = H24
    assert rig.get(TIME + DATE) == [1, 2, 3, 0x20, 0x30, 5, 6, 4]
    rig.to_next_second()
    assert rig[SECONDS] == 4


def test_what_is_no_time_counts_as_the_nearest_that_is(rig: Rig) -> None:
    rig[B] = H24 | SET
    for at in (*TIME, DAY_OF_MONTH, MONTH, YEAR):
        rig[at] = 0xFF
    rig[CENTURY] = 0x20
    assert rig[SECONDS] == 0xFF
    rig[B] = H24
    assert rig.get(TIME + DATE[:4]) == [0x23, 0x59, 0x59, 0x20, 0x99, 0x12, 0x31]


def test_the_day_of_the_week_is_the_guests_to_set(rig: Rig) -> None:
    rig[DAY_OF_WEEK] = 7
    rig.clock.advance(86_400 * SECOND)
    assert rig[DAY_OF_WEEK] == 1


def test_linux_sets_the_time_half_a_second_before_the_next_update(rig: Rig) -> None:
    """mc146818_set_time, with rtc-cmos' set_offset_nsec of half a second."""
    rig[B] = rig[B] | SET
    rig[A] = rig[A] | DIV_RESET
    for at, value in zip(TIME, (0x10, 0x20, 0x30), strict=True):
        rig[at] = value
    rig.clock.advance(SECOND // 3)
    rig[B] = H24
    rig.clock.advance(SECOND)
    assert rig[SECONDS] == 0x30
    rig[A] = 0x26
    rig.clock.advance(SECOND // 2 - 1)
    assert rig.get(TIME) == [0x10, 0x20, 0x30]
    rig.clock.advance(1)
    assert rig.get(TIME) == [0x10, 0x20, 0x31]


def test_a_held_divider_stops_every_flag(rig: Rig) -> None:
    rig[A] = 0x26 | DIV_RESET
    rig.clock.advance(10 * SECOND)
    assert rig[C] == 0
    assert not rig[A] & UIP


# --- the index, RAM and read-only registers ------------------------------


def test_the_index_can_not_be_read(rig: Rig) -> None:
    rig.rtc.write(0, 0x0A)
    assert rig.rtc.read(0) == 0xFF


def test_bit_7_of_the_index_masks_nmis(rig: Rig) -> None:
    rig.rtc.write(0, 0x80 | D)
    assert rig.rtc.nmi_disabled
    assert rig.rtc.read(1) == 0x80
    rig.rtc.write(0, D)
    assert not rig.rtc.nmi_disabled


def test_all_other_registers_are_ram(rig: Rig) -> None:
    ram = [at for at in range(0x0E, 0x80) if at != CENTURY]
    ram += [SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM]
    for at in ram:
        rig[at] = at ^ 0x55
    assert rig.get(tuple(ram)) == [at ^ 0x55 for at in ram]


def test_registers_c_and_d_and_uip_are_read_only(rig: Rig) -> None:
    rig[C] = rig[D] = rig[A] = 0xFF
    assert rig[C] == 0
    assert rig[D] == 0x80
    rig[A] = 0xA6
    assert rig[A] == 0x26


def test_other_offsets_do_nothing(rig: Rig) -> None:
    before = rig.rtc.state()
    rig.rtc.write(2, 0xFF)
    assert rig.rtc.read(2) == 0xFF
    assert rig.rtc.state() == before


def test_reset_is_power_on_at_the_hosts_time(rig: Rig) -> None:
    rig[0x40] = 1
    rig[B] = SET
    rig.wall_ns += 3 * SECOND
    rig.rtc.reset()
    assert rig.get((*TIME, 0x40, B)) == [0x22, 0x59, 0x00, 0, H24]


# --- update in progress --------------------------------------------------


def test_uip_rises_244_us_before_the_update_and_falls_with_it(rig: Rig) -> None:
    rig.clock.advance(SECOND * 3 // 4 - 244_001)
    assert not rig[A] & UIP
    rig.clock.advance(1)
    assert rig[A] & UIP
    rig.clock.advance(243_999)
    assert rig[A] & UIP
    rig.clock.advance(1)
    assert not rig[A] & UIP


def test_uip_stays_low_while_set(rig: Rig) -> None:
    rig[B] = SET
    rig.clock.advance(SECOND * 3 // 4 - 1)
    assert not rig[A] & UIP


# --- interrupts ----------------------------------------------------------


def test_flags_rise_without_their_enables_and_clear_on_reading(rig: Rig) -> None:
    rig.clock.advance(SECOND)
    assert rig[C] == UF | PF
    assert rig[C] == 0
    assert rig.irq8.edges == 0


def test_the_update_interrupt_comes_with_the_new_second(rig: Rig) -> None:
    rig[B] = H24 | UIE
    rig.clock.advance(SECOND * 3 // 4 - 1)
    assert rig.irq8.edges == 0
    rig.clock.advance(1)
    assert rig.irq8.edges == 1
    assert rig[C] == IRQF | UF | PF
    assert rig[SECONDS] == 0x58


def test_no_further_edge_until_register_c_is_read(rig: Rig) -> None:
    rig[B] = H24 | UIE | PIE
    rig.clock.advance(100 * SECOND)
    assert rig.irq8.edges == 1
    assert rig[C] & IRQF
    rig.clock.advance(SECOND)
    assert rig.irq8.edges == 2


def test_enabling_what_has_its_flag_up_interrupts_at_once(rig: Rig) -> None:
    rig.clock.advance(SECOND)
    rig[B] = H24 | UIE
    assert rig.irq8.edges == 1


def test_irqf_falls_with_the_enable_that_held_it(rig: Rig) -> None:
    rig[B] = H24 | UIE
    rig.clock.advance(SECOND)
    rig[B] = H24
    assert rig[C] == UF | PF


def test_set_going_high_clears_uie(rig: Rig) -> None:
    rig[B] = H24 | UIE
    rig[B] = H24 | UIE | SET
    assert rig[B] == H24 | SET
    rig.clock.advance(10 * SECOND)
    assert rig[C] == PF


def test_the_alarm_comes_at_its_time(rig: Rig) -> None:
    for at, value in ((HOURS_ALARM, 0x23), (MINUTES_ALARM, 0), (SECONDS_ALARM, 0x05)):
        rig[at] = value
    rig[B] = H24 | AIE
    rig.clock.advance(68 * SECOND - SECOND // 4 - 1)
    assert rig.irq8.edges == 0
    rig.clock.advance(1)
    assert rig.irq8.edges == 1
    assert rig[C] == IRQF | AF | UF | PF
    rig.clock.advance(86_400 * SECOND)
    assert rig.irq8.edges == 2


@pytest.mark.parametrize(
    ("hours", "minutes", "seconds", "after"),
    [
        (0xFF, 0xFF, 0xFF, 1),
        (0xC0, 0xFF, 0x05, 8),
        (0xFF, 0x01, 0x00, 123),
        (0x00, 0xFF, 0xFF, 3_663),
        (0xFF, 0x58, 0x57, 3_600),
        (0x22, 0x58, 0x57, 86_400),
    ],
)
def test_dont_care_bytes_of_the_alarm_match_anything(
    rig: Rig, hours: int, minutes: int, seconds: int, after: int
) -> None:
    rig[HOURS_ALARM], rig[MINUTES_ALARM], rig[SECONDS_ALARM] = hours, minutes, seconds
    rig[B] = H24 | AIE
    rig.clock.advance(after * SECOND - SECOND // 4 - 1)
    assert rig.irq8.edges == 0
    rig.clock.advance(1)
    assert rig.irq8.edges == 1


def test_an_alarm_at_no_time_of_day_never_comes(rig: Rig) -> None:
    rig[HOURS_ALARM], rig[MINUTES_ALARM], rig[SECONDS_ALARM] = 0x24, 0xFF, 0xFF
    rig[B] = H24 | AIE
    rig.clock.advance(2 * 86_400 * SECOND)
    assert rig.irq8.edges == 0


@pytest.mark.parametrize(
    ("rate", "hertz"), [(6, 1024), (7, 512), (1, 256), (2, 128), (10, 64), (15, 2)]
)
def test_the_periodic_interrupt_keeps_its_rate(rig: Rig, rate: int, hertz: int) -> None:
    rig[A] = 0x20 | rate
    rig[B] = H24 | PIE
    assert _interrupts_within(rig, SECOND) == hertz


@pytest.mark.parametrize("rate", [3, 4, 5])
def test_rates_above_1024_hz_are_coalesced_to_it(rig: Rig, rate: int) -> None:
    rig[A] = 0x20 | rate
    rig[B] = H24 | PIE
    assert _interrupts_within(rig, SECOND) == 1024


def test_rate_0_has_no_periodic_interrupt(rig: Rig) -> None:
    rig[A] = 0x20
    rig[B] = H24 | PIE
    rig.clock.advance(10 * SECOND)
    assert rig[C] == UF


def test_the_periodic_interrupt_goes_on_while_set(rig: Rig) -> None:
    rig[A] = 0x2F
    rig[B] = SET | PIE
    assert _interrupts_within(rig, SECOND) == 2


def _interrupts_within(rig: Rig, span_ns: int) -> int:
    """Let time pass in small steps, with a driver that reads register C."""
    seen = rig.irq8.edges
    count, step_ns = 0, 100_000
    for _ in range(span_ns // step_ns):
        rig.clock.advance(step_ns)
        if rig.irq8.edges != seen:
            seen = rig.irq8.edges
            count += 1
            rig[C]
    return count


def test_the_timers_that_a_guest_can_leave_on_the_clock_are_bounded(rig: Rig) -> None:
    for at in range(3_000):
        rig[SECONDS_ALARM] = at % 60
        rig[A] = 0x20 | at % 16
        rig[B] = H24 | (at * 7 & (PIE | AIE | UIE))
        rig.clock.advance(1_000_000)
        rig[C]
    assert len(rig.clock._timers) < 100


# --- what Linux does -----------------------------------------------------


def test_linux_reads_the_time_within_a_few_accesses(rig: Rig) -> None:
    """mc146818_avoid_UIP: the second twice, UIP clear between and after."""
    second = rig[SECONDS]
    assert not rig[A] & UIP
    assert rig[SECONDS] == second
    assert [rig[at] for at in (MINUTES, HOURS, DAY_OF_MONTH)] == [0x58, 0x22, 0x27]
    assert not rig[A] & UIP
    assert rig[SECONDS] == second


def test_rtc_cmos_finds_a_chip_in_24_hour_mode(rig: Rig) -> None:
    rig[A] = 0x26
    rig[B] = rig[B] & ~(PIE | AIE | UIE)
    rig[C]
    assert rig[B] & H24
    assert rig[D] & 0x80


# --- state ---------------------------------------------------------------


def test_state_survives_json(rig: Rig) -> None:
    rig[B] = H24 | UIE
    rig[0x40] = 0x12
    rig.rtc.write(0, 0x80 | A)
    rig.clock.advance(SECOND)
    state = rig.rtc.state()
    assert CmosRtcState(**json.loads(json.dumps(asdict(state)))) == state


def test_a_restored_rtc_goes_on_from_the_saved_time(rig: Rig) -> None:
    rig[B] = H24 | UIE
    state = rig.rtc.state()
    other = Rig()
    other.clock.advance(1_000_000 * SECOND)
    other.rtc.restore(state)
    assert other.get(TIME) == [0x22, 0x58, 0x57]
    other.to_next_second()
    assert other.irq8.edges == 1
    assert other[SECONDS] == 0x58


def test_a_guest_at_the_end_of_the_year_9999_can_be_saved(rig: Rig) -> None:
    rig[B] = H24 | SET
    for at, value in zip(TIME + DATE[:4], (23, 59, 59, 99, 99, 12, 31), strict=True):
        rig[at] = value // 10 << 4 | value % 10
    rig[B] = H24
    weekday = rig[DAY_OF_WEEK]
    rig.to_next_second()
    rig.rtc.restore(rig.rtc.state())
    assert rig.get(TIME + DATE[:4]) == [0, 0, 0, 0, 0, 1, 1]
    assert rig[DAY_OF_WEEK] == weekday % 7 + 1


def test_restoring_raises_a_pending_interrupt_again(rig: Rig) -> None:
    rig[B] = H24 | UIE
    rig.clock.advance(SECOND)
    other = Rig()
    other.rtc.restore(rig.rtc.state())
    assert other.irq8.edges == 1
    assert other[C] == IRQF | UF | PF


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ram": (0,) * 127}, "127 registers: it must have 128"),
        ({"ram": (256,) * 128}, "256 is no byte"),
        ({"index": 128}, "index is 128: it must be 0..127"),
        ({"weekday_offset": -1}, "weekday_offset is -1"),
        ({"quiet_ns": 10**9}, "quiet_ns is 1000000000"),
        ({"epoch_ns": 10**30}, "epoch_ns is 1000"),
        ({"epoch_ns": 1.5}, "epoch_ns is 1.5"),
    ],
)
def test_a_state_that_can_not_be_is_refused(
    rig: Rig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidState, match=message):
        replace(rig.rtc.state(), **changes)  # type: ignore[arg-type]


# --- the calendar --------------------------------------------------------

_SECONDS = st.integers(timegm((1, 1, 1, 0, 0, 0)), timegm((9999, 12, 31, 23, 59, 59)))
_CONTROL = st.sampled_from([0, H24, DM, H24 | DM])


@given(_SECONDS, st.integers(0, 6), _CONTROL)
def test_registers_decode_to_the_second_they_encode(
    second: int, offset: int, control: int
) -> None:
    registers = calendar.encode(second, offset, control)
    assert calendar.decode(registers, control) == (second, offset)


@given(_SECONDS, *[st.integers(0, 255)] * 3, _CONTROL)
def test_the_next_alarm_is_the_first_second_whose_registers_match(
    after: int, hours: int, minutes: int, seconds: int, control: int
) -> None:
    alarm = calendar.decode_alarm(hours, minutes, seconds, control)
    if alarm is None:
        return
    match = calendar.next_match(after, alarm)
    assert after < match <= after + 86_400
    of_day = match % 86_400
    now = (of_day // 3600, of_day // 60 % 60, of_day % 60)
    for want, have in zip(alarm, now, strict=True):
        assert want in (None, have)
