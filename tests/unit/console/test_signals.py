"""Signals that end us: one line or none, and the first one's exit code."""

import signal
import subprocess
import sys
from types import FrameType
from typing import TYPE_CHECKING, cast

from vmm.cli.run import _Stopper
from vmm.config import MachineConfig
from vmm.console.signals import handled

if TYPE_CHECKING:
    from vmm.machine.machine import Machine

PATIENCE = 60.0


def test_handlers_are_there_for_a_while() -> None:
    seen: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)

    before = signal.getsignal(signal.SIGWINCH)
    with handled({signal.SIGWINCH: note}):
        signal.raise_signal(signal.SIGWINCH)
    signal.raise_signal(signal.SIGWINCH)
    assert seen == [signal.SIGWINCH]
    assert signal.getsignal(signal.SIGWINCH) is before


def test_what_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with handled({signal.SIGHUP: lambda *_: None}):
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    signal.signal(signal.SIGHUP, before)


CHANGING = """
import signal
from vmm.console.signals import handled
print("ready", flush=True)
for _ in range(3000):
    with handled({signal.SIGWINCH: lambda *_: None}):
        pass
"""


def test_a_signal_that_comes_while_handlers_change_is_no_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHANGING],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        while process.poll() is None:
            process.send_signal(signal.SIGWINCH)
        assert process.stderr.read() == b""


class FakeMachine:
    """Notes with what it is stopped."""

    config = MachineConfig()

    def __init__(self) -> None:
        self.stops: list[tuple[str, int | None]] = []

    def stop(self, detail: str, exit_code: int | None) -> None:
        self.stops.append((detail, exit_code))


def test_the_first_signal_stops_and_the_others_change_nothing() -> None:
    machine = FakeMachine()
    stopper = _Stopper(cast("Machine", machine))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        stopper(number, None)
    assert machine.stops == [("SIGTERM", 143)]


def test_signals_after_the_run_change_nothing() -> None:
    machine = FakeMachine()
    stopper = _Stopper(cast("Machine", machine))
    stopper.disarm()
    stopper(signal.SIGINT, None)
    assert machine.stops == []


# SIGINT comes at the import of what the command is made of.
EARLY = """
import builtins, os, signal, sys
import vmm.__main__

imported = builtins.__import__

def interrupted(name, *rest):
    if name == "cli.main":
        os.kill(os.getpid(), signal.SIGINT)
    return imported(name, *rest)

builtins.__import__ = interrupted
sys.exit(vmm.__main__.main())
"""


def early(before: str = "") -> "subprocess.CompletedProcess[bytes]":
    script = [sys.executable, "-c", before + EARLY, "--version"]
    return subprocess.run(script, capture_output=True, timeout=PATIENCE)


def test_ctrl_c_before_a_machine_runs_is_no_traceback() -> None:
    done = early()
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_ignored_ctrl_c_stays_ignored() -> None:
    done = early("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert (done.returncode, done.stderr) == (0, b"")


def test_importing_the_package_is_quick_and_its_names_are_there() -> None:
    script = (
        "import sys, vmm; assert 'vmm.machine' not in sys.modules; "
        "assert {'Machine', 'run'} <= set(dir(vmm)); vmm.MachineConfig; vmm.errors; "
        "vmm.ConfigError; hasattr(vmm, 'nothing') and sys.exit(1)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE)
