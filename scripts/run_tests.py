"""What scripts/test runs once all is set up: checks, then pytest where it can.

Tests that this host's KVM can run, run here; the others run in one software
machine, which is one busy thread, beside those here if there are two cores.
tests/conftest.py sorts them by the VMM_TEST_* variables and writes one report
per run of pytest.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scripts.with_kvm.host_kvm import Kind, host_kvm

if TYPE_CHECKING:
    from typing import BinaryIO

PASSED: Final = 0  # pytest's exit codes
FAILED: Final = 1
NONE_COLLECTED: Final = 5
SIGNAL_DELAY_S: Final = 1.0  # that the handler of a signal may wait
MACHINE_FAILED: Final = 125  # with-kvm's
PYTHON: Final = sys.executable
PYTEST: Final = (PYTHON, "-m", "pytest")
# Neighbours stay together, and share a guest, until one process has nothing left.
TWO: Final = ("-n2", "--dist=worksteal")
COVERAGE: Final = (PYTHON, "-m", "coverage")
CHECKS: Final = {
    "ruff check": [PYTHON, "-m", "ruff", "check", "--quiet"],
    "ruff format --check": [PYTHON, "-m", "ruff", "format", "--check", "--quiet"],
    "mypy": [PYTHON, "-m", "mypy", "--no-error-summary"],
    "lint-imports": [str(Path(PYTHON).with_name("lint-imports")), "--no-logo"],
}
DEVICES: Final = "tests/unit/devices"  # the tests of devices/
LONG: Final = "--long"  # an option of ours; all others are pytest's
STOP_OPTIONS: Final = ("-x", "--exitfirst", "--maxfail")
# With these the user follows one run of pytest, so there is one at a time.
ALONE_OPTIONS: Final = (*STOP_OPTIONS, "--pdb", "--trace")
POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Report:
    """What one run of pytest did."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Report) -> Report:
        """Return the sum."""
        return Report(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
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
    """Runs commands, from several threads, and stops cleanly when signalled."""

    def __init__(self) -> None:
        """Let SIGINT reach the children alone; pass SIGTERM on to them."""
        self.stopped = 0  # or the signal that did
        self._children: set[subprocess.Popen[bytes]] = set()
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.stopped = number
        self._pass_on()

    def _pass_on(self) -> None:
        if self.stopped == signal.SIGTERM:
            for child in tuple(self._children):
                child.terminate()

    def run(
        self,
        command: list[str],
        variables: dict[str, str] | None = None,
        output: BinaryIO | None = None,
    ) -> int:
        """Run a command with these variables added; return its status.

        Its output goes to ours or, with nothing to read from us, to `output`.
        """
        if self.stopped:
            return 128 + self.stopped
        sys.stdout.flush()
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if output else None,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            env=os.environ | (variables or {}),
        ) as child:
            self._children.add(child)
            self._pass_on()  # a signal of before there was a child
            status = None
            while status is None:  # a signal may have come to another thread than ours
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = child.wait(SIGNAL_DELAY_S)
            self._children.remove(child)
        return 128 - status if status < 0 else status


class Side:
    """The runs of pytest on one side: the host's, or the software machine's."""

    def __init__(
        self, name: str, runner: Runner, arguments: list[str], kind: Kind, folder: Path
    ) -> None:
        """Take what is the same for all of them; reports go to `folder`."""
        self._name, self._runner, self._kind = name, runner, kind
        self._arguments, self._folder = arguments, folder
        self.codes: list[int] = []
        self.report = Report()

    def _pytest(
        self,
        command: list[str],
        variables: dict[str, str] | None = None,
        output: BinaryIO | None = None,
    ) -> int:
        report = self._folder / f"{self._name}.json"
        report.unlink(missing_ok=True)
        told = {
            "VMM_TEST_SIDE": self._name,
            "VMM_TEST_KIND": self._kind,
            "VMM_TEST_REPORT": str(report),
        }
        code = self._runner.run(command, told | (variables or {}), output)
        self.report += read_report(report)
        return code


class HostSide(Side):
    """Runs what this host can; with no arguments, measures coverage too."""

    covered = True  # as far as pyproject.toml demands

    def run(self) -> None:
        """Run the tests, the units' first."""
        # Where KVM emulates kernels no deadline must be tight.
        patience = {"VMM_TEST_DEADLINE": "600"} if self._kind == "pvm" else {}
        if self._arguments:
            command = [*PYTEST, *self._arguments]
            self.codes.append(self._pytest(command, patience))
            return
        self._runner.run([*COVERAGE, "erase"])
        # Measured for what is to be covered alone: it takes as long again.
        devices = [*COVERAGE, "run", *PYTEST[1:], *TWO, DEVICES]
        self.codes.append(self._pytest(devices))
        if self.codes == [PASSED]:
            self._runner.run([*COVERAGE, "combine", "--quiet"])
            report = [*COVERAGE, "report", "--skip-covered"]
            self.covered = self._runner.run(report) == 0
        units = [*PYTEST, *TWO, "tests/unit", f"--ignore={DEVICES}"]
        self.codes.append(self._pytest(units))
        # Half of what they take is waiting: for guests' timers, for processes to start.
        guests = [*PYTEST, *TWO, "tests", "--ignore=tests/unit"]
        self.codes.append(self._pytest(guests, patience))


class MachineSide(Side):
    """Runs in one software machine what else there is, if there is something."""

    def run(self, output: BinaryIO | None = None) -> None:
        """Run the tests; what they say goes to `output`, or where ours goes."""
        # Their number is asked first, as it takes a second and a start takes ten.
        # What they need of Debian's archive is fetched by this, too.
        what = self._arguments or ["tests/kvm"]
        with open(os.devnull, "wb") as nowhere:
            code = self._pytest(
                [*PYTEST, *what, "--collect-only", "-q"], output=nowhere
            )
        if code != PASSED:  # what else is wrong, the host's run says
            return
        where = ["scripts/with-kvm", "--out", str(self._folder)]
        command = [*where, *PYTEST, "-p", "no:cacheprovider", *what]
        code = self._run_inside(command, output)
        if code == MACHINE_FAILED and not self._runner.stopped:
            line = b"==> the software machine failed, not a test: once more\n"
            (output or sys.stdout.buffer).write(line)
            (output or sys.stdout.buffer).flush()
            code = self._run_inside(command, output)
        self.codes.append(code)

    def _run_inside(self, command: list[str], output: BinaryIO | None) -> int:
        # Within the machine nothing may be skipped for want of KVM. Every plugin costs
        # a second there, and without arguments these are all that are used.
        variables = {"VMM_REQUIRE_KVM": "1"}
        if not self._arguments:
            variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            variables["PYTEST_PLUGINS"] = "pytest_timeout,vmm.testing.plugin"
        return self._pytest(command, variables, output)


class Aside(threading.Thread):
    """Runs the software machine's side beside the host's, its output in a file."""

    def __init__(self, side: MachineSide, log: Path) -> None:
        """Take the side, and a file that isn't there yet."""
        super().__init__()
        self._side, self._log = side, log
        self._log.touch()

    def run(self) -> None:
        """Run the side."""
        with self._log.open("ab") as output:
            self._side.run(output)

    def show(self) -> None:
        """Print all that it says, until it has ended."""
        with self._log.open("rb") as log:
            ended = False
            while not ended:
                self.join(POLL_S)
                ended = not self.is_alive()  # asked first: what it said is all there
                shutil.copyfileobj(log, sys.stdout.buffer)
                sys.stdout.buffer.flush()


def failed_checks(runner: Runner) -> list[str]:
    """Run the linters; return the names of those that object."""
    failed = []
    for name, command in CHECKS.items():
        print(f"==> {name}", flush=True)
        if runner.run(command) != 0:
            failed.append(name)
    return failed


def has(arguments: list[str], options: tuple[str, ...]) -> bool:
    """Tell whether one of these options is among pytest's arguments."""
    return any(argument.startswith(options) for argument in arguments)


def main(arguments: list[str]) -> int:
    """Check and test; print the summary; return pytest's kind of exit code."""
    if LONG in arguments:
        os.environ["VMM_LONG"] = "1"
        arguments = [argument for argument in arguments if argument != LONG]
    # Without .pyc files each `vmm` that a test starts compiles itself for 0.1 s.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    runner, kind = Runner(), host_kvm().kind
    with tempfile.TemporaryDirectory(prefix="vmm-test.") as name:
        common = (runner, arguments, kind, Path(name))
        host, machine = HostSide("host", *common), MachineSide("machine", *common)
        aside = None
        cores = len(os.sched_getaffinity(0))
        if kind != "hardware" and cores > 1 and not has(arguments, ALONE_OPTIONS):
            print("==> beside all this, tests run in the software machine: see below")
            aside = Aside(machine, Path(name, "machine.log"))
            aside.start()
        failed = failed_checks(runner)
        host.run()
        stop = FAILED in host.codes and has(arguments, STOP_OPTIONS)
        if aside:
            print("==> tests in the software machine", flush=True)
            aside.show()
        elif kind != "hardware" and not runner.stopped and not stop:
            machine.run()
    if not host.covered:
        failed.append("coverage")
    if failed:
        print(f"failed: {', '.join(failed)}")
    print(*summary(host.report, machine.report), sep="\n")
    if runner.stopped:
        return 128 + runner.stopped
    code = combined([*host.codes, *machine.codes])
    return FAILED if failed and code in (PASSED, NONE_COLLECTED) else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
