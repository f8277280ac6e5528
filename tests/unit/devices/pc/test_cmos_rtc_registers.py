"""CmosRtc: the index, RAM and read-only registers, and what Linux does."""

import pytest
from support.cmos_rtc_rig import (
    AIE,
    CENTURY,
    DAY_OF_MONTH,
    H24,
    HOURS,
    HOURS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    PIE,
    SECOND,
    SECONDS,
    SECONDS_ALARM,
    SET,
    TIME,
    UIE,
    UIP,
    A,
    B,
    C,
    D,
    Rig,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


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
