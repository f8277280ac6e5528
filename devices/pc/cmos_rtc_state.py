"""CmosRtcState: all of a CmosRtc, ready for JSON."""

from typing import Final

from ..errors import InvalidState
from ..record import Record

CMOS_SIZE: Final = 128
FIRST_NS: Final = -62_167_219_200_000_000_000  # the year 0
END_NS: Final = 253_402_300_800_000_000_000  # the year 10,000


class CmosRtcState(Record, kw_only=True):
    """What `CmosRtc.state()` saves and `restore` takes.

    It survives ``CmosRtcState(**json.loads(json.dumps(asdict(state))))``
    unchanged. Raises InvalidState for what no chip could have been in.
    """

    ram: tuple[int, ...]
    """All 128 registers; those of the time count only while it stands still."""
    epoch_ns: int
    """The time, in nanoseconds since 1970, when the state was taken."""
    index: int = 0
    nmi_disabled: bool = False
    weekday_offset: int = 0
    """By how many days the day of the week is ahead of the date's own."""
    quiet_ns: int = 0
    """For so long no timer raises the next periodic interrupt."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ram", tuple(self.ram))  # JSON has none
        if len(self.ram) != CMOS_SIZE:
            raise InvalidState(
                f"CmosRtcState has {len(self.ram)} registers: it must have {CMOS_SIZE}"
            )
        for value in self.ram:
            if type(value) is not int or not 0 <= value <= 0xFF:
                raise InvalidState(f"CmosRtcState: {value!r} is no byte")
        limits = {
            "epoch_ns": (FIRST_NS, END_NS),
            "index": (0, CMOS_SIZE),
            "weekday_offset": (0, 7),
            "quiet_ns": (0, 1_000_000_000),
        }
        for name, (low, end) in limits.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value < end:
                raise InvalidState(
                    f"CmosRtcState.{name} is {value!r}: it must be {low}..{end - 1}"
                )
