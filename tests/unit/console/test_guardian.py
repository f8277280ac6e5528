"""Guardian and raw_terminal: the host is left as it was found, on every way out."""

import os
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.children import children
from support.guests import wait_until
from support.open_fds import open_fds

from vmm.console.guardian import Guardian
from vmm.console.socket_file import remove
from vmm.console.terminal import raw_terminal
from vmm.errors import VmmError

RAW_OFF = termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN

# A process that is raw, or has a Guardian, until it is killed. Its stdout is
# inherited by the guardian, so that it ends when both have.
RAW = """
import os, signal, sys
from vmm.console.terminal import raw_terminal
fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
with raw_terminal(fd):
    print("raw", flush=True)
    signal.pause()
"""
BESIDE_A_THREAD = """
import os, signal, sys, threading
from vmm.console.guardian import Guardian
from vmm.console.socket_file import remove
threading.Thread(target=threading.Event().wait, daemon=True).start()
path, status = sys.argv[1], os.stat(sys.argv[1])
with Guardian(remove) as guardian:
    guardian.tell([(path, status.st_dev, status.st_ino)])
    print("guarded", flush=True)
    signal.pause()
"""
GUARDED = """
import signal, sys
from vmm.console.guardian import Guardian
def undo(*what):
    with open(sys.argv[1], "a") as file:
        file.write(f"{what}\\n")
with Guardian(undo) as guardian:
    guardian.tell("first", [(1, b"x")])
    TELL
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


def test_somebody_elses_alarm_clock_stands_still(terminal: Terminal) -> None:
    before = signal.setitimer(signal.ITIMER_REAL, 1000, 2000)
    try:
        with raw_terminal(terminal[1]):
            assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        left, interval = signal.getitimer(signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
    assert 900 < left <= 1000
    assert interval == 2000


def test_what_is_no_terminal_is_left_alone() -> None:
    with open(os.devnull) as null, raw_terminal(null.fileno()) as is_raw:
        assert not is_raw


def test_terminal_that_somebody_else_has_changed_is_left_alone(
    terminal: Terminal,
) -> None:
    with raw_terminal(terminal[1]):
        changed = termios.tcgetattr(terminal[1])
        changed[3] |= termios.ECHO
        termios.tcsetattr(terminal[1], termios.TCSANOW, changed)
    assert termios.tcgetattr(terminal[1]) == changed


# Guardian


@pytest.fixture
def undone(tmp_path: Path) -> Path:
    """A file, since it may be undone in another process."""
    return tmp_path / "undone"


def killed(undone: Path, how: Callable[[int], None], tell: str = "") -> str:
    """What was undone of a process that was killed."""
    kill(GUARDED.replace("TELL", tell or "pass"), str(undone), how)
    return undone.read_text() if undone.exists() else ""


def kill_group(number: signal.Signals) -> Callable[[int], None]:
    return lambda pid: os.killpg(pid, number)


def test_nothing_is_undone_on_leaving(undone: Path) -> None:
    def undo(text: str) -> None:
        undone.write_text(text)

    with Guardian(undo) as guardian:
        guardian.tell("undone")
    assert not undone.exists()


def test_what_was_told_is_undone_after_sigkill(undone: Path) -> None:
    assert killed(undone, sigkill) == "('first', [(1, b'x')])\n"


def test_what_was_told_last_is_undone_alone(undone: Path) -> None:
    assert killed(undone, sigkill, "guardian.tell(2)") == "(2,)\n"


def test_nothing_is_undone_that_was_taken_back(undone: Path) -> None:
    assert killed(undone, sigkill, "guardian.tell()") == ""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL]
)
def test_undone_when_the_whole_group_is_killed(
    undone: Path, number: signal.Signals
) -> None:
    assert killed(undone, kill_group(number)) == "('first', [(1, b'x')])\n"


@pytest.fixture
def thread() -> Iterator[None]:
    """One more, beside which nobody forks."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    yield
    over.set()
    thread.join()


def test_what_was_told_is_undone_beside_threads(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    kill(BESIDE_A_THREAD, str(path), sigkill)
    assert not path.exists()


def test_beside_threads_it_has_no_descriptors_of_ours(thread: None) -> None:
    """Whoever is at the other end would wait for an end of file that never comes."""
    with open(os.devnull) as file, Guardian(remove) as guardian:
        child = Path(f"/proc/{guardian._child}")
        wait_until(lambda: (child / "comm").read_text() == "guardian\n", "the guardian")
        assert str(file.fileno()) not in os.listdir(child / "fd") or (
            os.readlink(child / f"fd/{file.fileno()}") != os.devnull
        )
        assert os.getsid(guardian._child) == guardian._child


def test_beside_threads_where_there_can_be_no_child_it_is_an_error(
    thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/python")
    before = open_fds()
    with pytest.raises(VmmError, match="guardian: no child: No such file"):
        Guardian(remove).__enter__()
    assert open_fds() == before


def test_guardian_has_a_session_and_a_name_of_its_own() -> None:
    with Guardian(lambda: None) as guardian:
        assert os.getsid(guardian._child) == guardian._child
        name = Path(f"/proc/{guardian._child}/comm").read_text()
    assert name == "guardian\n"  # `killall vmm` leaves it alone


def test_guardian_that_was_killed_is_no_error() -> None:
    with Guardian(lambda: None) as guardian:
        os.kill(guardian._child, signal.SIGKILL)
        os.waitid(os.P_PID, guardian._child, os.WEXITED | os.WNOWAIT)
        guardian.tell("what nobody undoes")


def test_ignored_sigchld_is_no_error() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with Guardian(lambda: None):
        pass
    signal.signal(signal.SIGCHLD, before)


def test_signals_reach_this_process_as_before() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with Guardian(lambda: None):
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_nothing_is_left_open_and_no_child() -> None:
    before = open_fds()
    with Guardian(lambda: None):
        assert len(children()) == 1
    assert open_fds() == before
    assert not children()
