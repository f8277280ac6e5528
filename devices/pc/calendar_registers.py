"""The time registers of an MC146818A: BCD or binary, 12 or 24 hours.

Source: Motorola MC146818A data sheet, Time, Calendar and Alarm Locations. The
century is where PCs keep it, in the RAM.
"""

import time
from collections.abc import Mapping
from typing import Final, TypeAlias

RTC_SECONDS: Final = 0x00
RTC_SECONDS_ALARM: Final = 0x01
RTC_MINUTES: Final = 0x02
RTC_MINUTES_ALARM: Final = 0x03
RTC_HOURS: Final = 0x04
RTC_HOURS_ALARM: Final = 0x05
RTC_DAY_OF_WEEK: Final = 0x06  # 1 is Sunday
RTC_DAY_OF_MONTH: Final = 0x07
RTC_MONTH: Final = 0x08
RTC_YEAR: Final = 0x09
RTC_CENTURY: Final = 0x32
DATE_REGISTERS: Final = (
    RTC_SECONDS,
    RTC_MINUTES,
    RTC_HOURS,
    RTC_DAY_OF_WEEK,
    RTC_DAY_OF_MONTH,
    RTC_MONTH,
    RTC_YEAR,
    RTC_CENTURY,
)

RTC_DM_BINARY: Final = 0x04  # in register B; else BCD
RTC_24H: Final = 0x02  # in register B; else 12 hours
_PM: Final = 0x80  # in the hours
_DONT_CARE: Final = 0xC0  # both set in an alarm register: any value matches

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR

# Hour, minute and second; None matches any.
Alarm: TypeAlias = tuple[int | None, int | None, int | None]


def encode(second: int, weekday_offset: int, control: int) -> dict[int, int]:
    """The registers of `second` since 1970, in the format `control` (B) says."""
    date = time.gmtime(second)
    hour, pm = date.tm_hour, 0
    if not control & RTC_24H:
        hour, pm = (hour % 12 or 12), (_PM if hour >= 12 else 0)
    return {
        RTC_SECONDS: _to_register(date.tm_sec, control),
        RTC_MINUTES: _to_register(date.tm_min, control),
        RTC_HOURS: _to_register(hour, control) | pm,
        RTC_DAY_OF_WEEK: (date.tm_wday + 1 + weekday_offset) % 7 + 1,
        RTC_DAY_OF_MONTH: _to_register(date.tm_mday, control),
        RTC_MONTH: _to_register(date.tm_mon, control),
        RTC_YEAR: _to_register(date.tm_year % 100, control),
        RTC_CENTURY: _to_register(date.tm_year // 100 % 100, control),
    }


def decode(registers: Mapping[int, int], control: int) -> tuple[int, int]:
    """The second since 1970 and the weekday offset that `registers` stand for.

    What is no time of day or no month counts as the nearest that is one; the
    31st of a shorter month is the 1st or so of the next.
    """

    def field(index: int, low: int, high: int) -> int:
        return min(max(_from_register(registers[index], control), low), high)

    hour = _hour(registers[RTC_HOURS], control)
    days = _days_since_1970(
        field(RTC_CENTURY, 0, 99) * 100 + field(RTC_YEAR, 0, 99),
        field(RTC_MONTH, 1, 12),
        field(RTC_DAY_OF_MONTH, 1, 31),
    )
    second = (
        days * _DAY
        + min(hour, 23) * _HOUR
        + field(RTC_MINUTES, 0, 59) * _MINUTE
        + field(RTC_SECONDS, 0, 59)
    )
    weekday = (days + 4) % 7 + 1  # the first day was a Thursday, 5
    return second, (registers[RTC_DAY_OF_WEEK] - weekday) % 7


def decode_alarm(hours: int, minutes: int, seconds: int, control: int) -> Alarm | None:
    """What the three alarm registers match; None if that never comes."""
    hour = None if _is_any(hours) else _hour(hours, control)
    minute = None if _is_any(minutes) else _from_register(minutes, control)
    second = None if _is_any(seconds) else _from_register(seconds, control)
    if (hour or 0) > 23 or (minute or 0) > 59 or (second or 0) > 59:
        return None
    return hour, minute, second


def next_match(after: int, alarm: Alarm) -> int:
    """The first second later than `after` that `alarm` matches."""
    hour, minute, second = alarm
    at = after + 1
    while True:
        if hour is not None and at % _DAY // _HOUR != hour:
            at += _HOUR - at % _HOUR
        elif minute is not None and at % _HOUR // _MINUTE != minute:
            at += _MINUTE - at % _MINUTE
        elif second is not None and at % _MINUTE != second:
            at += 1
        else:
            return at


def _is_any(register: int) -> bool:
    return register & _DONT_CARE == _DONT_CARE


def _hour(register: int, control: int) -> int:
    if control & RTC_24H:
        return _from_register(register, control)
    hour = _from_register(register & ~_PM, control)
    return hour % 12 + (12 if register & _PM else 0)


def _to_register(value: int, control: int) -> int:
    return value if control & RTC_DM_BINARY else value // 10 << 4 | value % 10


def _from_register(register: int, control: int) -> int:
    if control & RTC_DM_BINARY:
        return register
    return (register >> 4) * 10 + (register & 0x0F)


def _days_since_1970(year: int, month: int, day: int) -> int:
    # Years from March on, so that the leap day is the last of its year.
    if month <= 2:
        year -= 1
    march_based = (month + 9) % 12
    leap_days = year // 4 - year // 100 + year // 400
    return year * 365 + leap_days + (153 * march_based + 2) // 5 + day - 719_469
