"""scripts/bench: rounds of jobs, and the rows that come of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scripts.benchmark.children import NotMeasured
from scripts.benchmark.rounds import Job, Sample, run_rounds
from scripts.benchmark.summary import rows

if TYPE_CHECKING:
    from pathlib import Path


def silent(_: str) -> None:
    """Show no progress."""


def job(variant: str, values: list[float], group: str = "m") -> Job:
    """A job that takes its values one after the other, then can't be measured."""
    left = iter(values)

    def run(_: Path) -> list[Sample]:
        try:
            return [Sample(group, next(left), "ns")]
        except StopIteration:
            raise NotMeasured("no more") from None

    return Job(group, variant, run)


def samples(**values: list[float]) -> dict[tuple[str, str], list[Sample]]:
    """Samples of one measure by variant."""
    return {
        ("m", variant): [Sample("m", value, "ns") for value in list_of]
        for variant, list_of in values.items()
    }


def test_the_first_time_does_not_count() -> None:
    measured = run_rounds([job("c", [100, 1, 2])], 2, silent)
    assert [s.value for s in measured.samples["m", "c"]] == [1, 2]


@pytest.mark.parametrize("successes", [0, 1, 2])
def test_a_job_that_fails_once_has_a_reason_and_no_samples(successes: int) -> None:
    jobs = [job("c", [1, 1, 1]), job("qemu", [1.0] * successes)]
    measured = run_rounds(jobs, 2, silent)
    assert list(measured.samples) == [("m", "c")]
    assert measured.reasons == {("m", "qemu"): "no more"}


def test_a_run_may_have_more_than_one_value_and_not_always() -> None:
    counts = iter([2, 2, 1])

    def run(_: Path) -> list[Sample]:
        return [Sample("m", 1, "ms"), Sample("also", 1, "MiB")][: next(counts)]

    measured = run_rounds([Job("m", "c", run)], 2, silent)
    assert [len(measured.samples[name, "c"]) for name in ("m", "also")] == [2, 1]


def test_each_round_begins_with_another_variant_of_a_group() -> None:
    seen: list[str] = []
    jobs = [job(name, [1, 1, 1]) for name in "abc"] + [job("z", [1, 1, 1], "n")]
    run_rounds(jobs, 2, seen.append)
    assert [line.split(": ")[1] for line in seen] == [
        *("m a", "m b", "m c", "n z"),
        *("m b", "m c", "m a", "n z"),
        *("m c", "m a", "m b", "n z"),
    ]


def test_samples_come_in_the_order_of_the_jobs() -> None:
    jobs = [job(name, [1, 1]) for name in "cab"]
    assert [key[1] for key in run_rounds(jobs, 1, silent).samples] == ["c", "a", "b"]


def test_each_run_has_an_empty_directory_that_vanishes() -> None:
    seen: list[Path] = []

    def run(folder: Path) -> list[Sample]:
        assert list(folder.iterdir()) == []
        (folder / "file").touch()
        seen.append(folder)
        return [Sample("m", 1, "ns")]

    run_rounds([Job("m", "c", run)], 1, silent)
    assert len(set(seen)) == 2
    assert [folder for folder in seen if folder.exists()] == []


def test_a_row_has_median_and_spread() -> None:
    (row,) = rows(samples(python=[5, 1, 2]))
    assert (row.median, row.spread, row.rounds) == (2, (1, 5), 3)


def test_ratios_are_those_of_the_medians() -> None:
    table = rows(samples(c=[1, 2, 9], qemu=[4, 4, 4], python=[3, 3, 3]))
    assert [(row.ratio["c"], row.ratio["qemu"]) for row in table] == [
        (1, 0.5),
        (2, 1),
        (1.5, 0.75),
    ]


def test_a_ratio_to_what_was_not_measured_is_null() -> None:
    (row,) = rows(samples(python=[1]))
    assert row.ratio == dict.fromkeys(("c", "qemu", "firecracker", "cloud-hypervisor"))


def test_exits_are_the_median_of_those_counted() -> None:
    counted = [Sample("m", 1, "ms", exits) for exits in (10, 30, 20)]
    (row,) = rows({("m", "python"): counted})
    assert row.exits == 20


def test_rows_of_one_measure_stand_together() -> None:
    one, other = Sample("a", 1, "ms"), Sample("b", 1, "MiB")
    measured = {
        (sample.measure, variant): [sample]
        for variant in ("c", "qemu")
        for sample in (one, other)
    }
    table = rows(measured)
    assert [row.measure for row in table] == ["a", "a", "b", "b"]
