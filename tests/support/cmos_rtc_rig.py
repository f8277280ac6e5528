"""A CmosRtc on a clock that stands still, and the guest's accesses."""

from calendar import timegm

from support.serial_rig import CountingTrigger
from vmm.devices.clock import VirtualClock
from vmm.devices.pc.cmos_rtc import CmosRtc

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
