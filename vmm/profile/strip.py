"""The picture on the page: one strip from power-on to the end."""

from collections.abc import Iterator
from typing import Final

from .recorder import Boot, Profile
from .summary import Gap
from .timeline import Line

SHOWN_BOOTS: Final = 50
COLUMNS: Final = 400
_STEPS: Final = (1, 2, 5)


class Scale:
    """Times since the first power-on, and where they are on the strip."""

    def __init__(self, profile: Profile) -> None:
        boots = profile.boots
        self.start_ns = boots[0].start.ns if boots else 0
        self.span_ns = max(1, boots[-1].end.ns - self.start_ns) if boots else 1

    def since(self, ns: int) -> str:
        """Seconds since power-on."""
        return f"{(ns - self.start_ns) / 1e9:.6f}"

    def percent(self, ns: int) -> float:
        """The place of an instant."""
        return 100 * (ns - self.start_ns) / self.span_ns

    def ticks(self) -> Iterator[int]:
        """Round instants, five to twelve of them."""
        step = 1
        while self.span_ns > 12 * step * _STEPS[-1]:
            step *= 10
        step *= next(size for size in _STEPS if self.span_ns <= 12 * step * size)
        for at in range(0, self.span_ns + 1, step):
            yield self.start_ns + at


def timeline_strip(profile: Profile, ranked: list[Gap], scale: Scale) -> str:
    """Lines, gaps and boots over the time of the whole run."""
    marks = [
        *_columns(profile.timeline.lines, scale),
        *(_gap_mark(rank, gap, scale) for rank, gap in enumerate(ranked, start=1)),
        *_boot_marks(profile.boots, scale),
    ]
    ticks = "".join(
        f'<u style="left:{scale.percent(ns):.3f}%">'
        f"{(ns - scale.start_ns) / 1e9:g} s</u>"
        for ns in scale.ticks()
    )
    return (
        "<h2>Boot timeline</h2>\n"
        f'<div class="strip">{"".join(marks)}</div>\n<div class="axis">{ticks}</div>\n'
        '<p class="note">Bars: console lines, the higher the more. Orange: the '
        "slowest gaps between them, with the numbers of the table.</p>\n"
    )


def _columns(lines: list[Line], scale: Scale) -> Iterator[str]:
    counts: dict[int, int] = {}
    for line in lines:
        column = min(COLUMNS - 1, int(scale.percent(line.start.ns) / 100 * COLUMNS))
        counts[column] = counts.get(column, 0) + 1
    most = max(counts.values(), default=1)
    for column, count in sorted(counts.items()):
        yield (
            f'<i style="left:{100 * column / COLUMNS:.2f}%;'
            f'height:{20 + 60 * count / most:.0f}%"></i>'
        )


def _gap_mark(rank: int, gap: Gap, scale: Scale) -> str:
    left, right = scale.percent(gap.start.ns), scale.percent(gap.end.ns)
    number = f"<s>{rank}</s>" if right - left > 1.5 else ""
    return f'<b style="left:{left:.3f}%;width:{right - left:.3f}%">{number}</b>'


def _boot_marks(boots: list[Boot], scale: Scale) -> Iterator[str]:
    if len(boots) == 1:
        return
    for number, boot in enumerate(boots[:SHOWN_BOOTS], start=1):
        left = scale.percent(boot.start.ns)
        yield f'<em style="left:{left:.3f}%">boot {number}</em>'
