"""CmosRtc: saving and restoring."""

import json
from dataclasses import asdict, replace

import pytest
from support.cmos_rtc_rig import (
    DATE,
    DAY_OF_WEEK,
    H24,
    IRQF,
    PF,
    SECOND,
    SECONDS,
    SET,
    TIME,
    UF,
    UIE,
    A,
    B,
    C,
    Rig,
)

from vmm.devices.errors import InvalidState
from vmm.devices.pc.cmos_rtc_state import CmosRtcState


@pytest.fixture
def rig() -> Rig:
    return Rig()


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
