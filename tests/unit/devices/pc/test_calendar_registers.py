"""The time registers: both ways, and the next alarm."""

from calendar import timegm

from hypothesis import given
from hypothesis import strategies as st
from support.cmos_rtc_rig import DM, H24

from vmm.devices.pc import calendar_registers as calendar

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
