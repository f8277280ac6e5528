"""Guardian and raw_terminal: the host is left as it was found, on every way out."""

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from open_fds import open_fds

from vmm.guardian import Guardian
from vmm.terminal import raw_terminal

RAW_OFF = termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN

# A process that is raw, or has a Guardian, until it is killed. Its stdout is
# inherited by the guardian, so that it ends when both have.
RAW = """
import os, signal, sys
from vmm.terminal import raw_terminal
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
with raw_terminal(fd):
    print("raw", flush=True)
    signal.pause()
"""
GUARDED = """
import signal, sys
from vmm.guardian import Guardian
def undo():
    with open(sys.argv[1], "a") as file:
        file.write("undone\\n")
with Guardian(undo):
    print("guarded", flush=True)
    signal.pause()
"""

Terminal = tuple[int, int]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """The user's end of a terminal, and the one that we have."""
    ours, theirs = os.openpty()
    yield ours, theirs
    os.close(theirs)
    os.close(ours)


def kill(script: str, argument: str, how: Callable[[int], None]) -> None:
    """Run a script until it says that it is ready, and end it; wait for all of it."""
    with subprocess.Popen(
        [sys.executable, "-c", script, argument],
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        how(process.pid)
        assert process.stdout.read() == b""


def sigkill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


# raw_terminal


def test_keys_pass_unchanged_and_unechoed(terminal: Terminal) -> None:
    with raw_terminal(terminal[1]) as is_raw:
        iflag, _, _, lflag, *_ = termios.tcgetattr(terminal[1])
    assert is_raw
    assert not lflag & RAW_OFF
    assert not iflag & (termios.ICRNL | termios.IXON)


def test_each_key_is_there_at_once(terminal: Terminal) -> None:
    user, fd = terminal
    with raw_terminal(fd):
        os.write(user, b"\x03")
        assert os.read(fd, 10) == b"\x03"


def test_output_processing_stays(terminal: Terminal) -> None:
    before = termios.tcgetattr(terminal[1])[1]
    with raw_terminal(terminal[1]):
        assert termios.tcgetattr(terminal[1])[1] == before


def test_terminal_is_restored(terminal: Terminal) -> None:
    before = termios.tcgetattr(terminal[1])
    with raw_terminal(terminal[1]):
        pass
    assert termios.tcgetattr(terminal[1]) == before


def test_terminal_is_restored_after_an_exception(terminal: Terminal) -> None:
    before = termios.tcgetattr(terminal[1])
    with pytest.raises(ValueError, match="ours"), raw_terminal(terminal[1]):
        raise ValueError("ours")
    assert termios.tcgetattr(terminal[1]) == before


def test_terminal_is_restored_after_sigkill(terminal: Terminal) -> None:
    before = termios.tcgetattr(terminal[1])
    kill(RAW, os.ttyname(terminal[1]), sigkill)
    assert termios.tcgetattr(terminal[1]) == before


def test_terminal_that_was_hung_up_is_no_error() -> None:
    user, fd = os.openpty()
    with raw_terminal(fd):
        os.close(user)
    os.close(fd)


def test_what_is_no_terminal_is_left_alone() -> None:
    with open(os.devnull) as null, raw_terminal(null.fileno()) as is_raw:
        assert not is_raw


# Guardian


class Undo:
    """Counts in a file, since it may be called in another process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self) -> None:
        with open(self._path, "a") as file:
            file.write("undone\n")

    @property
    def count(self) -> int:
        return self._path.read_text().count("undone") if self._path.exists() else 0


@pytest.fixture
def undo(tmp_path: Path) -> Undo:
    return Undo(tmp_path / "undone")


def test_undone_once_on_leaving(undo: Undo) -> None:
    with Guardian(undo):
        assert undo.count == 0
    assert undo.count == 1


def test_undone_once_after_an_exception(undo: Undo) -> None:
    with pytest.raises(ValueError, match="ours"), Guardian(undo):
        raise ValueError("ours")
    assert undo.count == 1


def test_undone_once_after_sigkill(undo: Undo, tmp_path: Path) -> None:
    kill(GUARDED, str(tmp_path / "undone"), sigkill)
    assert undo.count == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_undone_once_when_the_whole_group_is_signalled(
    undo: Undo, tmp_path: Path, number: signal.Signals
) -> None:
    kill(GUARDED, str(tmp_path / "undone"), lambda pid: os.killpg(pid, number))
    assert undo.count == 1


def test_guardian_that_was_killed_is_no_error(undo: Undo) -> None:
    with Guardian(undo) as guardian:
        os.kill(guardian._child, signal.SIGKILL)
        os.waitid(os.P_PID, guardian._child, os.WEXITED | os.WNOWAIT)
    assert undo.count == 1


def test_ignored_sigchld_is_no_error(undo: Undo) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with Guardian(undo):
        pass
    signal.signal(signal.SIGCHLD, before)
    assert undo.count == 1


def test_signals_reach_this_process_as_before(undo: Undo) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with Guardian(undo):
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_nothing_is_left_open_and_no_child(undo: Undo) -> None:
    before = open_fds()
    with Guardian(undo):
        pass
    assert open_fds() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
