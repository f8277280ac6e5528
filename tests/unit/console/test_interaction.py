"""Console.interact: a person at the console of a machine that a program has made."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.console_rig import DEADLINE, Start
from support.guests import wait_until
from support.terminals import Terminal, on_terminal

from vmm.console.config import ConsoleConfig
from vmm.console.console import Console
from vmm.errors import VmmError
from vmm.event_loop import EventLoop

pytest_plugins = ("support.loop_fixtures", "support.console_fixtures")

HINT = b"Ctrl-A h helps\r\n"

# A console whose guest prints what is typed, in capitals. `told` is for us.
SETTING = """
import os, signal, sys, threading, time
sys.path[:0] = {path!r}
from support.console_rig import Rig
from support.open_fds import open_fds
from vmm.event_loop import EventLoop
from vmm.result import ExitReason, RunResult

loop = EventLoop(print)
rig = Rig(loop, "capture")
console = rig.console
rig.guest.listen()
loop.start()

def answer():
    while True:
        for byte in rig.guest.read_with_breaks(1):
            rig.print(b"<break>" if byte is None else bytes([byte]).upper())

threading.Thread(target=answer, daemon=True).start()

def told(*what):
    with open(sys.argv[1], "a") as file:
        print(*what, file=file)

"""


class Stay:
    """A program on a terminal, and what it has told."""

    def __init__(self, terminal: Terminal, file: Path) -> None:
        self.terminal = terminal
        self._file = file

    def told(self) -> str:
        """All of it, once the program has ended."""
        assert self.terminal.process.wait(DEADLINE) == 0
        return self._file.read_text()


@contextmanager
def staying(file: Path, program: str) -> Iterator[Stay]:
    path: Sequence[str] = [str(Path(__file__).parents[2]), os.getcwd()]
    script = SETTING.format(path=path) + program
    with on_terminal([sys.executable, "-c", script, str(file)]) as terminal:
        yield Stay(terminal, file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "told"


def test_keys_are_the_guests_and_its_output_the_persons(file: Path) -> None:
    with staying(file, "console.interact(); told('left')") as stay:
        stay.terminal.read_until(HINT)
        stay.terminal.type(b"ls\x03\x01\x01")
        stay.terminal.read_until(b"LS\x03\x01")
        stay.terminal.type(b"\x01x")
        assert stay.told() == "left\n"
        assert not stay.terminal.is_raw()


def test_readers_go_on_as_if_one_more_had_been_there(file: Path) -> None:
    program = """
rig.print(b"before ")
console.expect("bef", 10)
console.interact()
told(console.read(), console.transcript)
"""
    with staying(file, program) as stay:
        stay.terminal.read_until(b"before ")
        stay.terminal.type(b"typed")
        stay.terminal.read_until(b"TYPED")
        stay.terminal.type(b"\x01x")
        assert stay.told() == "b'ore TYPED' b'before TYPED'\n"


def test_it_begins_with_a_screenful_of_what_was_printed(file: Path) -> None:
    program = """
for number in range(100):
    rig.print(b"line %d\\n" % number)
rig.print(b"$ ")
console.expect("$ ", 10)
console.interact()
"""
    with staying(file, program) as stay:
        shown = stay.terminal.read_until(b"$ ")
        lines = [f"line {number}" for number in range(77, 100)]
        assert shown.partition(HINT)[2].decode().split("\r\n") == [*lines, "$ "]
        stay.terminal.type(b"\x01x")
        assert stay.terminal.process.wait(DEADLINE) == 0


def test_one_may_come_back(file: Path) -> None:
    with staying(file, "console.interact(); console.interact()") as stay:
        for word in (b"ONE", b"TWO"):
            stay.terminal.read_until(HINT)
            stay.terminal.type(word)
            stay.terminal.read_until(word)
            stay.terminal.type(b"\x01x")
        assert stay.terminal.process.wait(DEADLINE) == 0


def test_what_is_typed_behind_ctrl_a_x_is_not_the_guests(file: Path) -> None:
    with staying(file, "console.interact(); told(console.transcript)") as stay:
        stay.terminal.read_until(HINT)
        stay.terminal.type(b"yes\x01xno")
        stay.terminal.process.wait(DEADLINE)
        assert "NO" not in stay.told()


def test_break_and_help(file: Path) -> None:
    with staying(file, "console.interact()") as stay:
        stay.terminal.read_until(HINT)
        stay.terminal.type(b"\x01h")
        stay.terminal.read_until(b"leave the console; the guest runs on")
        stay.terminal.type(b"a\x01bc")
        stay.terminal.read_until(b"A<break>C")
        stay.terminal.type(b"\x01x")
        assert stay.terminal.process.wait(DEADLINE) == 0


def test_it_ends_with_the_run_and_shows_all_of_it(file: Path) -> None:
    program = """
def end():
    time.sleep(0.2)
    rig.print(b"x" * 100_000 + b"last words")
    console.finish(10)
    console.end(RunResult(ExitReason.RESET, 0))

threading.Thread(target=end).start()
console.interact()
loop.close()
console.interact()
"""
    with staying(file, program) as stay:
        for _ in range(2):
            shown = stay.terminal.read_until(b"the run has ended: reset\r\n")
            assert b"last words\r\n" in shown
        assert stay.terminal.process.wait(DEADLINE) == 0


def test_it_leaves_nothing_open(file: Path) -> None:
    program = """
def state():
    return open_fds(), threading.active_count(), console._captured()._readers[:]

before = state()
console.interact()
told(before == state())
"""
    with staying(file, program) as stay:
        stay.terminal.read_until(HINT)
        stay.terminal.type(b"\x01x")
        assert stay.told() == "True\n"


# The terminal is restored


def test_after_an_exception(file: Path) -> None:
    program = """
try:
    console.interact()
except KeyboardInterrupt:
    told("interrupted")
"""
    with staying(file, program) as stay:
        stay.terminal.read_until(HINT)
        assert stay.terminal.is_raw()
        stay.terminal.process.send_signal(signal.SIGINT)
        assert stay.told() == "interrupted\n"
        assert not stay.terminal.is_raw()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_after_a_kill(file: Path, number: signal.Signals) -> None:
    with staying(file, "console.interact()") as stay:
        stay.terminal.read_until(HINT)
        assert stay.terminal.is_raw()
        stay.terminal.process.send_signal(number)
        assert stay.terminal.process.wait(DEADLINE) == -number
        wait_until(lambda: not stay.terminal.is_raw(), "the terminal as it was")


def test_while_it_is_stopped(file: Path) -> None:
    with staying(file, "console.interact()") as stay:
        stay.terminal.read_until(HINT)
        stay.terminal.process.send_signal(signal.SIGTSTP)
        wait_until(stay.terminal.is_stopped, "the stop")
        assert not stay.terminal.is_raw()
        stay.terminal.process.send_signal(signal.SIGCONT)
        wait_until(stay.terminal.is_raw, "the guest's terminal")
        stay.terminal.type(b"on")
        stay.terminal.read_until(b"ON")
        stay.terminal.type(b"\x01x")
        assert stay.terminal.process.wait(DEADLINE) == 0
        assert not stay.terminal.is_raw()


def test_person_who_hangs_up_has_left(file: Path) -> None:
    program = """
signal.signal(signal.SIGHUP, signal.SIG_IGN)
console.interact()
told("left")
"""
    with staying(file, program) as stay:
        stay.terminal.read_until(HINT)
        stay.terminal.hang_up()
        assert stay.told() == "left\n"


# Where it can't be


def test_without_a_terminal_it_is_an_error(start: Start) -> None:
    with pytest.raises(VmmError, match=r"^interact: stdin and stdout are no terminal"):
        start("capture").console.interact()


def test_where_nothing_is_captured_it_is_an_error(start: Start) -> None:
    with pytest.raises(VmmError, match="nothing is kept to be read here"):
        start("null").console.interact()


@pytest.mark.parametrize("serial", ["stdio", "stdout"])
def test_where_the_guest_has_the_terminal_already_it_is_an_error(
    start: Start, serial: str, tmp_path: Path
) -> None:
    """All would be shown twice, and Ctrl-A x be the guest's now and then."""
    rig = start(serial, f"file:{tmp_path}/log")
    match = f"^interact: the guest has the terminal already: serial='{serial}'$"
    with pytest.raises(VmmError, match=match):
        rig.console.interact()


def test_console_that_only_shows_has_none(loop: EventLoop, stack: ExitStack) -> None:
    console = Console(loop, ConsoleConfig(), print)
    stack.callback(console.close)
    with pytest.raises(VmmError, match="takes no input"):
        console.interact()


def test_only_the_main_thread_has_the_terminal(file: Path) -> None:
    program = """
def elsewhere():
    try:
        console.interact()
    except Exception as error:
        told(error)

thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
"""
    with staying(file, program) as stay:
        assert "only the main thread" in stay.told()
