"""CmosRtc: update, alarm and periodic interrupts, and their flags."""

import pytest
from support.cmos_rtc_rig import (
    AF,
    AIE,
    H24,
    HOURS_ALARM,
    IRQF,
    MINUTES_ALARM,
    PF,
    PIE,
    SECOND,
    SECONDS,
    SECONDS_ALARM,
    SET,
    UF,
    UIE,
    A,
    B,
    C,
    Rig,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


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


def test_a_timer_that_nobody_waits_for_any_more_changes_nothing(rig: Rig) -> None:
    rig[B] = H24 | PIE
    rig[B] = H24
    rig.clock.advance(1_000_000)
    assert rig.rtc.state().unseen_ns == 1_000_000
    rig[B] = H24 | UIE
    rig.rtc.reset()
    rig.clock.advance(SECOND)
    assert rig.rtc.state().unseen_ns == SECOND
