"""Where the chips of an ARM machine sit."""

from typing import Final

from ..adapter import Adapter
from ..resources import LegacyIrqConstraint, MmioAddressConstraint
from ..trigger import InterruptLine
from .pl031 import Rtc

RTC_MMIO_SIZE: Final = 0x1000


class RtcMmio(Adapter):
    """The PL031: a page of MMIO and an interrupt, any unless told otherwise."""

    def __init__(
        self,
        rtc: Rtc,
        line: InterruptLine,
        *,
        base: int | None = None,
        irq: int | None = None,
    ) -> None:
        size = RTC_MMIO_SIZE
        bounds = None if base is None else (base, base + size - 1)
        page = MmioAddressConstraint(size=size, align=size, range=bounds)
        super().__init__(rtc, (page, LegacyIrqConstraint(irq=irq)), [line])
        self._rtc = rtc

    def read(self, base: int, offset: int, data: memoryview) -> None:
        # Registers are words. What is narrower reads its part of one, what is
        # wider has zeros above it.
        word = self._rtc.read(offset & ~3) >> 8 * (offset & 3)
        data[:] = word.to_bytes(8, "little")[: len(data)]

    def write(self, base: int, offset: int, data: memoryview) -> None:
        # Only a whole word can be written: half of a load is no time.
        if len(data) == 4 and offset % 4 == 0:
            self._rtc.write(offset, int.from_bytes(data, "little"))
        else:
            self._rtc.events.invalid_write()
