"""CmosRtc: the time, how it runs and how it is set."""

import pytest
from support.cmos_rtc_rig import (
    CENTURY,
    DATE,
    DAY_OF_MONTH,
    DAY_OF_WEEK,
    DIV_RESET,
    DM,
    H24,
    HOURS,
    MINUTES,
    MONTH,
    SECOND,
    SECONDS,
    SET,
    TIME,
    UIP,
    YEAR,
    A,
    B,
    C,
    D,
    Rig,
)


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
