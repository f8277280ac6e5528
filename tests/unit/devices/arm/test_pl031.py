"""Rtc: one test per rule of the PL031."""

import pytest
from support.pl031_rig import END, NOW, SECOND, Rig

from vmm.devices.arm.pl031 import (
    RTCCR,
    RTCDR,
    RTCICR,
    RTCIMSC,
    RTCLR,
    RTCMIS,
    RTCMR,
    RTCRIS,
    Rtc,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_rtcdr_starts_at_the_hosts_time_and_counts_seconds(rig: Rig) -> None:
    assert rig.rtc.read(RTCDR) == NOW
    rig.clock.advance(SECOND * 3 // 4 - 1)
    assert rig.rtc.read(RTCDR) == NOW
    rig.clock.advance(1)
    assert rig.rtc.read(RTCDR) == NOW + 1


def test_registers_at_power_on(rig: Rig) -> None:
    offsets = (RTCMR, RTCLR, RTCCR, RTCIMSC, RTCRIS, RTCMIS)
    assert [rig.rtc.read(at) for at in offsets] == [0, 0, 1, 0, 0, 0]


def test_rtclr_sets_the_counter_and_reads_back(rig: Rig) -> None:
    rig.rtc.write(RTCLR, 1_000)
    assert (rig.rtc.read(RTCLR), rig.rtc.read(RTCDR)) == (1_000, 1_000)
    rig.clock.advance(5 * SECOND)
    assert (rig.rtc.read(RTCLR), rig.rtc.read(RTCDR)) == (1_000, 1_005)


def test_the_counter_wraps_after_32_bits(rig: Rig) -> None:
    rig.rtc.write(RTCLR, END - 1)
    rig.clock.advance(2 * SECOND)
    assert rig.rtc.read(RTCDR) == 1


@pytest.mark.parametrize("value", [0, 1, 2, 0xFFFF_FFFF])
def test_rtccr_has_no_effect_once_the_rtc_is_enabled(rig: Rig, value: int) -> None:
    rig.rtc.write(RTCLR, 1_000)
    rig.alarm_in(5)
    before = rig.rtc.state()
    rig.rtc.write(RTCCR, value)
    assert rig.rtc.state() == before
    assert rig.events.invalid_writes == 0


def test_rtccr_reads_1_and_can_not_be_cleared(rig: Rig) -> None:
    rig.rtc.write(RTCCR, 0)
    assert rig.rtc.read(RTCCR) == 1
    rig.clock.advance(5 * SECOND)
    assert rig.rtc.read(RTCDR) == NOW + 5


def test_rtccr_does_not_restart_the_second_that_has_begun(rig: Rig) -> None:
    rig.clock.advance(SECOND // 2)
    rig.rtc.write(RTCCR, 1)
    rig.clock.advance(SECOND // 4)
    assert rig.rtc.read(RTCDR) == NOW + 1


def test_rtccr_does_not_restart_a_match_that_was_cleared(rig: Rig) -> None:
    rig.alarm_in(0)
    rig.rtc.write(RTCICR, 1)
    rig.rtc.write(RTCCR, 1)
    assert (rig.rtc.read(RTCRIS), rig.irq.edges) == (0, 1)


def test_linux_finds_the_time_it_set_when_it_probes_again(rig: Rig) -> None:
    """pl031_probe sets bit 0 of RTCCR, pl031_set_time writes RTCLR."""
    rig.rtc.write(RTCCR, rig.rtc.read(RTCCR) | 1)
    rig.rtc.write(RTCLR, NOW + 3_600)
    rig.clock.advance(10 * SECOND)
    rig.rtc.write(RTCCR, rig.rtc.read(RTCCR) | 1)
    assert rig.rtc.read(RTCDR) == NOW + 3_610


def test_a_match_interrupts_when_the_counter_gets_there(rig: Rig) -> None:
    rig.alarm_in(3)
    rig.clock.advance(3 * SECOND - SECOND // 4 - 1)
    assert (rig.irq.edges, rig.rtc.read(RTCRIS)) == (0, 0)
    rig.clock.advance(1)
    assert rig.irq.edges == 1
    assert (rig.rtc.read(RTCRIS), rig.rtc.read(RTCMIS)) == (1, 1)
    rig.clock.advance(100 * SECOND)
    assert rig.irq.edges == 1


def test_a_match_far_away_comes_too(rig: Rig) -> None:
    rig.alarm_in(100_000)
    rig.clock.advance(99_999 * SECOND)
    assert rig.irq.edges == 0
    rig.clock.advance(SECOND)
    assert rig.irq.edges == 1


def test_a_match_written_for_now_interrupts_at_once(rig: Rig) -> None:
    rig.alarm_in(0)
    assert rig.irq.edges == 1


def test_a_match_after_the_wrap(rig: Rig) -> None:
    rig.rtc.write(RTCLR, END - 2)
    rig.alarm_in(4)
    rig.clock.advance(4 * SECOND)
    assert rig.irq.edges == 1


def test_the_mask_hides_a_match_until_it_is_set(rig: Rig) -> None:
    rig.rtc.write(RTCMR, NOW + 1)
    rig.clock.advance(5 * SECOND)
    assert (rig.rtc.read(RTCRIS), rig.rtc.read(RTCMIS), rig.irq.edges) == (1, 0, 0)
    rig.rtc.write(RTCIMSC, 1)
    assert (rig.rtc.read(RTCMIS), rig.irq.edges) == (1, 1)


def test_rtcicr_clears_and_the_next_match_interrupts_again(rig: Rig) -> None:
    rig.alarm_in(1)
    rig.clock.advance(SECOND)
    rig.rtc.write(RTCICR, 1)
    assert rig.rtc.read(RTCRIS) == 0
    rig.alarm_in(2)
    rig.clock.advance(2 * SECOND)
    assert rig.irq.edges == 2


def test_rtcicr_clears_nothing_when_0_is_written(rig: Rig) -> None:
    rig.alarm_in(0)
    rig.rtc.write(RTCICR, 0)
    assert rig.rtc.read(RTCRIS) == 1


def test_an_earlier_match_replaces_a_later_one(rig: Rig) -> None:
    rig.alarm_in(50)
    rig.alarm_in(2)
    rig.clock.advance(2 * SECOND)
    assert rig.irq.edges == 1
    rig.rtc.write(RTCICR, 1)
    rig.clock.advance(100 * SECOND)
    assert rig.irq.edges == 1


def test_the_primecell_ids(rig: Rig) -> None:
    ids = [rig.rtc.read(at) for at in range(0xFE0, 0x1000, 4)]
    assert ids == [0x31, 0x10, 0x04, 0x00, 0x0D, 0xF0, 0x05, 0xB1]


@pytest.mark.parametrize("offset", [RTCICR, 0x20, 0x02, 0xFDC, 0xFE1])
def test_reads_of_nothing_are_0_and_told(rig: Rig, offset: int) -> None:
    assert rig.rtc.read(offset) == 0
    assert (rig.events.invalid_reads, rig.events.invalid_writes) == (1, 0)


@pytest.mark.parametrize("offset", [RTCDR, RTCRIS, RTCMIS, 0x20, 0xFE0])
def test_writes_to_nothing_are_ignored_and_told(rig: Rig, offset: int) -> None:
    before = rig.rtc.state()
    rig.rtc.write(offset, 0xFFFF_FFFF)
    assert rig.rtc.state() == before
    assert (rig.events.invalid_reads, rig.events.invalid_writes) == (0, 1)


def test_events_may_be_left_out(rig: Rig) -> None:
    rtc = Rtc(rig.clock, rig.irq)
    rtc.write(RTCDR, 0)
    assert rtc.read(RTCICR) == 0


def test_reset_is_power_on_at_the_hosts_time(rig: Rig) -> None:
    fresh = rig.rtc.state()
    rig.alarm_in(1)
    rig.rtc.write(RTCLR, 5)
    rig.rtc.reset()
    assert rig.rtc.state() == fresh
