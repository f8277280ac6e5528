"""An Rtc on a clock that stands still."""

from support.serial_rig import CountingTrigger
from vmm.devices.arm.pl031 import RTCDR, RTCIMSC, RTCMR, Rtc, RtcMetrics
from vmm.devices.clock import VirtualClock

SECOND = 1_000_000_000
NOW = 1_700_000_000
END = 1 << 32


class Rig:
    """An Rtc on a clock that stands still, a quarter into a second."""

    def __init__(self) -> None:
        self.clock = VirtualClock(77)
        self.irq = CountingTrigger()
        self.events = RtcMetrics()
        self.rtc = Rtc(
            self.clock,
            self.irq,
            events=self.events,
            wall_ns=lambda: NOW * SECOND + SECOND // 4,
        )

    def alarm_in(self, seconds: int) -> None:
        self.rtc.write(RTCMR, (self.rtc.read(RTCDR) + seconds) % END)
        self.rtc.write(RTCIMSC, 1)
