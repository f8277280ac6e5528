"""What a profile comes to: the numbers that both kinds of report show."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from .recorder import Boot, Profile
from .timeline import Mark
from .vcpu import Place, Tally

POWER_ON: Final = "(power on)"
END: Final = "(end)"


class Gap(NamedTuple):
    """A time in which the guest printed nothing, and the lines before and after."""

    start: Mark
    end: Mark
    after: str
    before: str

    @property
    def ns(self) -> int:
        return self.end.ns - self.start.ns

    @property
    def exits(self) -> int:
        return self.end.exits - self.start.exits

    @property
    def device_ns(self) -> int:
        return self.end.device_ns - self.start.device_ns


def gaps(profile: Profile) -> list[Gap]:
    """All that are between lines that were kept, the longest first."""
    found = (gap for boot in profile.boots for gap in _gaps(profile, boot))
    return sorted(found, key=lambda gap: -gap.ns)


def _gaps(profile: Profile, boot: Boot) -> Iterator[Gap]:
    lines = profile.timeline.lines
    at, after = boot.start, POWER_ON
    for line in lines[boot.first_line : boot.last_line]:
        yield Gap(at, line.start, after, line.text)
        at, after = line.end, line.text
    if boot.last_line <= len(lines):  # else there were lines in what is left
        yield Gap(at, boot.end, after, END)


def ranked_places(profile: Profile) -> list[tuple[Place, Tally]]:
    """What was seen of each place, those with most accesses first."""
    return sorted(profile.tallies().items(), key=lambda item: -item[1].accesses)


def ranked_devices(profile: Profile) -> list[tuple[str | None, Tally]]:
    """What was seen of each device, likewise; None: where there is none."""
    devices: dict[str | None, Tally] = {}
    for place, tally in profile.tallies().items():
        devices.setdefault(place.device, Tally()).add(tally)
    return sorted(devices.items(), key=lambda item: -item[1].accesses)


def left_out(profile: Profile) -> dict[str, int]:
    """How much there was beyond the bounds of a profile, by what it is."""
    kept = len(profile.timeline.lines)
    elsewhere = (
        tally.accesses
        for place, tally in profile.tallies().items()
        if place.address is None
    )
    return {
        "console_lines": profile.timeline.count - kept,
        "console_bytes": sum(line.cut for line in profile.timeline.lines),
        "boots": profile.boots_left_out,
        "accesses_elsewhere": sum(elsewhere),
        "slices": sum(vcpu.left_out for vcpu in profile.vcpus.values()),
    }
