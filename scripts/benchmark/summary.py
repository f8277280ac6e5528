"""From samples to rows: medians, spread, ratios."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .rounds import Sample

# What the others are compared with.
BASES: Final = ("c", "qemu", "firecracker", "cloud-hypervisor")


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` has a null where its base wasn't measured.

    `spread` is the least and the greatest value; `exits` the median of the exits
    to userspace where they were counted.
    """

    measure: str
    variant: str
    median: float
    unit: str
    ratio: dict[str, float | None]
    spread: tuple[float, float]
    rounds: int
    exits: float | None = None


def rows(samples: Mapping[tuple[str, str], Sequence[Sample]]) -> list[Row]:
    """Return a row for each measure and variant, measures in order of appearance."""
    measures = list(dict.fromkeys(measure for measure, _ in samples))
    return [
        _row(key, samples) for wanted in measures for key in samples if key[0] == wanted
    ]


def _row(
    key: tuple[str, str], samples: Mapping[tuple[str, str], Sequence[Sample]]
) -> Row:
    measure, variant = key
    values = [sample.value for sample in samples[key]]
    exits = [sample.exits for sample in samples[key] if sample.exits is not None]
    ratio: dict[str, float | None] = dict.fromkeys(BASES)
    for base in BASES:
        if others := samples.get((measure, base)):
            ratio[base] = median(values) / median(other.value for other in others)
    return Row(
        measure=measure,
        variant=variant,
        median=median(values),
        unit=samples[key][0].unit,
        ratio=ratio,
        spread=(min(values), max(values)),
        rounds=len(values),
        exits=median(exits) if exits else None,
    )
