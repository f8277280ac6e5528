"""What scripts/test runs once all is set up: checks, then pytest where it can.

Tests that this host's KVM can run, run here; the others run in one software
machine. tests/conftest.py sorts them by the VMM_TEST_* variables and writes
one report per run of pytest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.with_kvm.host_kvm import Kind, host_kvm

PASSED: Final = 0  # pytest's exit codes
FAILED: Final = 1
NONE_COLLECTED: Final = 5
MACHINE_FAILED: Final = 125  # with-kvm's
PYTHON: Final = sys.executable
CHECKS: Final = {
    "ruff check": [PYTHON, "-m", "ruff", "check", "--quiet"],
    "ruff format --check": [PYTHON, "-m", "ruff", "format", "--check", "--quiet"],
    "mypy": [PYTHON, "-m", "mypy", "--no-error-summary"],
}
STOP_OPTIONS: Final = ("-x", "--exitfirst", "--maxfail")


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of pytest did; `elsewhere`: tests for the software machine."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    elsewhere: int = 0

    def __add__(self, other: Report) -> Report:
        """Return the sum."""
        return Report(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
            self.elsewhere + other.elsewhere,
        )

    @property
    def ran(self) -> int:
        """Return how many tests came to a verdict."""
        return self.passed + self.failed


def read_report(path: Path) -> Report:
    """Return what tests/conftest.py wrote, zeros if it came not so far."""
    try:
        return Report(**json.loads(path.read_text()))
    except FileNotFoundError:
        return Report()


def combined(codes: list[int]) -> int:
    """Return one pytest exit code for several runs.

    The first that is neither success nor "nothing selected" counts; nothing
    selected in all of them is nothing selected.
    """
    serious = [code for code in codes if code not in (PASSED, NONE_COLLECTED)]
    if serious:
        return serious[0]
    return PASSED if PASSED in codes else NONE_COLLECTED


def summary(here: Report, machine: Report) -> list[str]:
    """Return the closing lines; the last one is for programs to read."""
    total = here + machine
    last = f"{total.passed} passed, {total.failed} failed"
    if total.skipped:
        last += f", {total.skipped} skipped"
    return [
        f"{here.ran} tests ran on this machine, "
        f"{machine.ran} in the software machine, {total.skipped} skipped",
        last,
    ]


class Runner:
    """Runs commands one after the other and stops cleanly when signalled."""

    def __init__(self) -> None:
        """Let SIGINT reach the children alone; pass SIGTERM on to them."""
        self.stopped = 0
        self._child: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.stopped = number
        if number == signal.SIGTERM and self._child:
            self._child.terminate()

    def run(self, command: list[str], **variables: str) -> int:
        """Run a command with these variables added; return its status."""
        if self.stopped:
            return 128 + self.stopped
        sys.stdout.flush()
        with subprocess.Popen(command, env=os.environ | variables) as self._child:
            status = self._child.wait()
        return 128 - status if status < 0 else status


class TestRun:
    """One run of the suite with the user's pytest arguments."""

    __test__ = False  # for pytest: no test

    def __init__(self, runner: Runner, arguments: list[str], kind: Kind) -> None:
        """Take what is the same for all runs of pytest."""
        self._runner, self._arguments, self._kind = runner, arguments, kind
        self.codes: list[int] = []
        self.here, self.machine = Report(), Report()
        self.covered = True  # as far as pyproject.toml demands

    def _pytest(self, prefix: list[str], side: str, directory: str) -> Report:
        report = Path(directory, "report.json")
        report.unlink(missing_ok=True)
        code = self._runner.run(
            prefix,
            VMM_TEST_SIDE=side,
            VMM_TEST_KIND=self._kind,
            VMM_TEST_REPORT=str(report),
            # Within the machine nothing may be skipped for want of KVM.
            **({"VMM_REQUIRE_KVM": "1"} if side == "machine" else {}),
            **({"VMM_TEST_DEADLINE": "600"} if self._emulates(side) else {}),
        )
        self.codes.append(code)
        return read_report(report)

    def _emulates(self, side: str) -> bool:
        """Tell whether kernels are so slow there that no deadline must be tight."""
        return side == "host" and self._kind == "pvm"

    def run_here(self, directory: str) -> None:
        """Run what this host can; with no arguments, measure coverage too."""
        pytest = ["-m", "pytest"]
        if self._arguments:
            self.here = self._pytest(
                [PYTHON, *pytest, *self._arguments], "host", directory
            )
            return
        coverage = [PYTHON, "-m", "coverage"]
        self.here = self._pytest(
            [*coverage, "run", *pytest, "tests/unit"], "host", directory
        )
        if self.codes == [PASSED]:
            self.covered = not self._runner.run([*coverage, "report", "--skip-covered"])
        self.here += self._pytest(
            [PYTHON, *pytest, "tests", "--ignore=tests/unit"], "host", directory
        )

    def may_go_on(self) -> bool:
        """Tell whether the software machine's tests are to run after these."""
        stop = any(option.startswith(STOP_OPTIONS) for option in self._arguments)
        return not self._runner.stopped and not (stop and FAILED in self.codes)

    def run_in_machine(self, directory: str) -> None:
        """Run the rest in one software machine, if there is a rest."""
        if not self.here.elsewhere or not self.may_go_on():
            return
        count = self.here.elsewhere
        print(f"==> {count} tests, also or only, in the software machine", flush=True)
        where = ["scripts/with-kvm", "--out", directory, PYTHON, "-m", "pytest"]
        what = self._arguments or ["tests/kvm"]
        command = [*where, "-p", "no:cacheprovider", *what]
        self.machine = self._pytest(command, "machine", directory)
        if self.codes[-1] == MACHINE_FAILED and self.may_go_on():
            print("==> the software machine failed, not a test: once more", flush=True)
            del self.codes[-1]
            self.machine = self._pytest(command, "machine", directory)


def main(arguments: list[str]) -> int:
    """Check and test; print the summary; return pytest's kind of exit code."""
    runner = Runner()
    failed_checks = []
    for name, command in CHECKS.items():
        print(f"==> {name}", flush=True)
        if runner.run(command) != 0:
            failed_checks.append(name)
    tests = TestRun(runner, arguments, host_kvm().kind)
    with tempfile.TemporaryDirectory(prefix="vmm-test.") as directory:
        tests.run_here(directory)
        tests.run_in_machine(directory)
    if not tests.covered:
        failed_checks.append("coverage")
    if failed_checks:
        print(f"failed: {', '.join(failed_checks)}")
    print(*summary(tests.here, tests.machine), sep="\n")
    if runner.stopped:
        return 128 + runner.stopped
    code = combined(tests.codes)
    return FAILED if failed_checks and code in (PASSED, NONE_COLLECTED) else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
