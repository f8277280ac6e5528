"""scripts/test: how several runs of pytest become one result."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from scripts.run_tests import (
    Aside,
    MachineSide,
    Report,
    Runner,
    combined,
    read_report,
    summary,
)

if TYPE_CHECKING:
    from typing import BinaryIO

ROOT = Path(__file__).parents[3]


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
    path.write_text('{"passed": 3, "failed": 1, "skipped": 2}')
    assert read_report(path) == Report(3, 1, 2)


class FakeRunner:
    """Runs nothing; gives the statuses that it was told, and says which it was."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.commands: list[list[str]] = []
        self.stopped = 0

    def run(
        self, command: list[str], variables: dict[str, str], output: BinaryIO
    ) -> int:
        self.commands.append(command)
        output.write(f"run {len(self.commands)}\n".encode())
        return self.statuses.pop(0)


def machine_side(runner: FakeRunner, folder: Path, *arguments: str) -> MachineSide:
    return MachineSide(
        "machine", cast("Runner", runner), list(arguments), "pvm", folder
    )


def test_no_machine_is_started_for_no_tests(tmp_path: Path) -> None:
    runner = FakeRunner(5)
    side = machine_side(runner, tmp_path, "tests/unit", "-k", "serial")
    side.run()
    assert "--collect-only" in runner.commands[0]
    assert len(runner.commands) == 1
    assert side.codes == []


def test_machine_that_failed_is_tried_once_more(tmp_path: Path) -> None:
    runner = FakeRunner(0, 125, 1)
    side = machine_side(runner, tmp_path)
    log = tmp_path / "log"
    with log.open("wb") as output:
        side.run(output)
    assert side.codes == [1]
    said = log.read_text().splitlines()
    assert (said[0], said[2]) == ("run 2", "run 3")
    assert said[1] == "==> the software machine failed, not a test: once more"
    assert runner.commands[1] == runner.commands[2]
    assert runner.commands[1][0] == "scripts/with-kvm"


def test_what_runs_aside_is_shown_whole(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    class Slow:
        def run(self, output: BinaryIO) -> None:
            for number in range(3):
                output.write(b"%d\n" % number)
                output.flush()
                time.sleep(0.1)

    aside = Aside(cast("MachineSide", Slow()), tmp_path / "log")
    aside.start()
    aside.show()
    assert capfdbinary.readouterr().out == b"0\n1\n2\n"


STOPPED = """
import sys, threading
from scripts.run_tests import Runner

runner = Runner()
command = ["sh", "-c", "echo up; exec sleep 600"]
aside = threading.Thread(target=runner.run, args=(command,))
aside.start()
print(runner.run(command))
aside.join()
print(runner.run(command), flush=True)  # not even begun
"""


def test_sigterm_ends_all_that_run() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED], cwd=ROOT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"up\nup\n"
        process.terminate()
        assert process.stdout.read() == b"143\n143\n"
    assert process.returncode == 0
