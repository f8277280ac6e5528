"""scripts/test: how several runs of pytest become one result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scripts.run_tests import Report, combined, read_report, summary

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([0, 0], 0),
        ([0, 5], 0),
        ([5, 5], 5),
        ([], 5),
        ([1, 0], 1),
        ([0, 1], 1),
        ([5, 2, 1], 2),
    ],
)
def test_nothing_selected_counts_only_if_nothing_was_selected_anywhere(
    codes: list[int], expected: int
) -> None:
    assert combined(codes) == expected


def test_last_line_sums_both_sides() -> None:
    lines = summary(Report(passed=5, failed=1), Report(passed=2, failed=1))
    assert lines[-1] == "7 passed, 2 failed"


def test_last_line_names_skipped_tests_if_there_are_any() -> None:
    lines = summary(Report(passed=5, skipped=1), Report(passed=2, skipped=2))
    assert lines[-1] == "7 passed, 0 failed, 3 skipped"


def test_summary_says_how_many_ran_where() -> None:
    lines = summary(Report(passed=5, failed=1, skipped=1), Report(passed=2))
    assert lines[0] == (
        "6 tests ran on this machine, 2 in the software machine, 1 skipped"
    )


def test_missing_report_counts_nothing(tmp_path: Path) -> None:
    assert read_report(tmp_path / "none.json") == Report()


def test_report_is_read_as_it_was_counted(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text('{"passed": 3, "failed": 1, "skipped": 2, "elsewhere": 4}')
    assert read_report(path) == Report(3, 1, 2, 4)
