"""Rounds: all variants after one another, again and again, so that drift hits all."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .children import NotMeasured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Sample:
    """One measured value of `measure`, and what was counted on the way, if any."""

    measure: str
    value: float
    unit: str
    exits: int | None = None


@dataclass(frozen=True)
class Job:
    """One run of one variant: `run` works in an empty directory, raises NotMeasured.

    Jobs of one `group` are compared with each other.
    """

    group: str
    variant: str
    run: Callable[[Path], list[Sample]]


@dataclass
class Measured:
    """All samples by measure and variant, and why there are none of a job."""

    samples: dict[tuple[str, str], list[Sample]] = field(
        default_factory=lambda: defaultdict(list)
    )
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)


def run_rounds(
    jobs: Sequence[Job], rounds: int, progress: Callable[[str], None]
) -> Measured:
    """Run all jobs `rounds` times (≥ 1), and once before, which doesn't count.

    The first time fills caches and finds what can't be measured. A job that fails
    is not run again and has no samples at all. Each round begins with another job.
    """
    measured = Measured()
    left = list(jobs)
    found: dict[Job, list[Sample]] = {job: [] for job in jobs}
    for number in range(rounds + 1):
        name = f"round {number} of {rounds}" if number else "warming up"
        for job in _rotated(left, number):
            progress(f"{name}: {job.group} {job.variant}")
            try:
                samples = _run(job)
            except NotMeasured as reason:
                measured.reasons[job.group, job.variant] = str(reason)
                left.remove(job)
                del found[job]
                continue
            found[job] += samples if number else ()
    for job, all_samples in found.items():
        for sample in all_samples:
            measured.samples[sample.measure, job.variant].append(sample)
    return measured


def _rotated(jobs: Sequence[Job], by: int) -> list[Job]:
    """Return the jobs, each group starting `by` places later, round about."""
    groups: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.group].append(job)
    return [
        group[(index + by) % len(group)]
        for group in groups.values()
        for index in range(len(group))
    ]


def _run(job: Job) -> list[Sample]:
    with tempfile.TemporaryDirectory(prefix="vmm-bench.") as folder:
        return job.run(Path(folder))
