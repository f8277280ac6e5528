"""A guest's terminal that is as large as ours, whoever watches: `vmm run`, interact."""

import os
import sys
from pathlib import Path

from support.console_rig import DEADLINE
from support.terminals import Terminal, on_terminal

# Tells each size; says when it is over, and who has SIGWINCH then.
FOLLOWED = """
import signal, sys
sys.path[:0] = {path!r}
from vmm.console.terminal_size import followed
from vmm.event_loop import EventLoop

loop = EventLoop(print)
before = signal.getsignal(signal.SIGWINCH)
with followed(loop, lambda *size: print("size", *size, flush=True)):
    loop.start()
    sys.stdin.readline()
assert signal.getsignal(signal.SIGWINCH) == before
loop.close()
print("over", flush=True)
"""

INTERACT = """
import sys
sys.path[:0] = {path!r}
from support.console_rig import Rig
from vmm.event_loop import EventLoop

loop = EventLoop(print)
rig = Rig(loop, "capture")
rig.console.connect(rig.guest.serial, lambda *size: rig.print(b"%d %d!" % size))
rig.guest.listen()
loop.start()
rig.console.interact()
"""


def program(text: str) -> list[str]:
    path = [str(Path(__file__).parents[2]), os.getcwd()]
    return [sys.executable, "-c", text.format(path=path)]


def shows(terminal: Terminal, columns: int, rows: int, form: bytes) -> None:
    terminal.resize(rows, columns)
    terminal.read_until(form % (columns, rows))


def test_each_size_is_told_and_the_signal_is_given_back() -> None:
    with on_terminal(program(FOLLOWED)) as terminal:
        terminal.read_until(b"size")
        for columns, rows in ((80, 24), (132, 50)):
            shows(terminal, columns, rows, b"size %d %d")
        terminal.type(b"\n")
        terminal.read_until(b"over")
        assert terminal.process.wait(DEADLINE) == 0


def test_whoever_interacts_has_a_terminal_of_his_size() -> None:
    with on_terminal(program(INTERACT)) as terminal:
        terminal.read_until(b"!")
        for columns, rows in ((80, 24), (132, 50)):
            shows(terminal, columns, rows, b"%d %d!")
        terminal.type(b"\x01x")
        assert terminal.process.wait(DEADLINE) == 0
