"""AcpiPm: ACPI's PM1 registers, by which a guest switches the machine off.

The fixed hardware that has no flag to leave it out: PM1_STS, offset 0, PM1_EN, 2,
and PM1_CNT, 4, of 16 bits each. No event ever happens here (there are no buttons,
no wake-ups and no timer), so that the SCI stays silent and PM1_STS reads 0.

Source: ACPI Specification 6.5, section 4.8.3.
"""

from typing import Annotated, Final

from ..state import State
from ..trigger import Trigger

PM1_STS: Final = 0
PM1_EN: Final = 2
PM1_CNT: Final = 4
PM1_SIZE: Final = 6

# Of PM1_EN, what an event could have.
_TMR_EN: Final = 1 << 0
_GBL_EN: Final = 1 << 5
_PWRBTN_EN: Final = 1 << 8
_SLPBTN_EN: Final = 1 << 9
_RTC_EN: Final = 1 << 10
_PCIEXP_WAKE_DIS: Final = 1 << 14
EN_BITS: Final = (
    _TMR_EN | _GBL_EN | _PWRBTN_EN | _SLPBTN_EN | _RTC_EN | _PCIEXP_WAKE_DIS
)

SCI_EN: Final = 1 << 0  # always set: there is no legacy mode to come from
BM_RLD: Final = 1 << 1
SLP_TYP_SHIFT: Final = 10
SLP_TYP: Final = 7 << SLP_TYP_SHIFT
SLP_EN: Final = 1 << 13  # write only
# GBL_RLS, 1 << 2, is write only, too, and meant for firmware, which there isn't.

SLP_TYP_S5: Final = 0
"""What `\\_S5` says that SLP_TYP has to be to switch off; others do nothing.

As in QEMU, for kernels that write 0x2000 to port 0x604 without reading any table.
"""


class AcpiPmState(State, kw_only=True):
    """What PM1_EN and PM1_CNT read."""

    enable: Annotated[int, range(EN_BITS + 1)]
    control: Annotated[int, range(1 << 16)]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(not self.enable & ~EN_BITS, "PM1_EN has no such bits")
        written = self.control & ~(SLP_TYP | BM_RLD)
        self.require(written == SCI_EN, "PM1_CNT has SCI_EN, and no such bits")


class AcpiPm:
    """The PM1 block, byte by byte. A guest's `power_off` is pulled as it asks."""

    def __init__(self, power_off: Trigger) -> None:
        self._power_off = power_off
        self.reset()

    def reset(self) -> None:
        """Return to the power-on state: nothing enabled, ACPI mode."""
        self._registers = bytearray(PM1_SIZE)
        self._registers[PM1_CNT] = SCI_EN

    def state(self) -> AcpiPmState:
        """What was written and is kept."""
        return AcpiPmState(enable=self._word(PM1_EN), control=self._word(PM1_CNT))

    def restore(self, state: State | None) -> None:
        """Go on from `state`. Raises InvalidState."""
        new = AcpiPmState.of(state)
        for at, word in ((PM1_EN, new.enable), (PM1_CNT, new.control)):
            self._registers[at : at + 2] = word.to_bytes(2, "little")

    def read(self, offset: int) -> int:
        """The byte at `offset`, 0..0xFF; beyond the block 0."""
        return self._registers[offset] if offset < PM1_SIZE else 0

    def write(self, offset: int, value: int) -> None:
        """Write `value`, 0..0xFF, at `offset`; status and unknown bits are ignored."""
        register, shift = offset & ~1, 8 * (offset & 1)
        if register == PM1_EN:
            self._registers[offset] = value & EN_BITS >> shift
        elif register == PM1_CNT:
            kept = value & (SLP_TYP | BM_RLD) >> shift
            self._registers[offset] = kept | (SCI_EN >> shift)
            if value << shift & SLP_EN:
                self._sleep()

    def _sleep(self) -> None:
        if (self._word(PM1_CNT) & SLP_TYP) >> SLP_TYP_SHIFT == SLP_TYP_S5:
            self._power_off.trigger()

    def _word(self, at: int) -> int:
        return int.from_bytes(self._registers[at : at + 2], "little")
