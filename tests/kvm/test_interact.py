"""A person takes over a guest that a program or a test has started."""

import sys
from pathlib import Path

from support.guests import DEADLINE, bare
from support.terminals import on_terminal

PROGRAM = """
import sys
from vmm import Machine, MachineConfig

with Machine(MachineConfig(kernel=sys.argv[1])) as machine:
    machine.start()
    machine.console.expect("echo: ready\\n", 60)
    machine.console.send("1")
    machine.console.expect("1", 60)
    machine.console.interact()
    print("then", machine.console.expect("4", 60).before)
    machine.console.send("5")
    machine.console.expect("5", 60)
    machine.console.interact()
    print("last", machine.console.transcript, machine.result.reason.value)
"""
FAILING = """
def test_login(vm):
    machine = vm()
    machine.start()
    machine.console.expect("echo: ready")
    machine.console.send("logn: ")
    machine.console.expect("login: ", timeout=0.5)
"""


def test_person_and_program_take_turns() -> None:
    with on_terminal([sys.executable, "-c", PROGRAM, str(bare("echo"))]) as terminal:
        terminal.read_until(b"1")
        terminal.type(b"234")
        terminal.read_until(b"234")
        terminal.type(b"\x01x")
        terminal.read_until(b"then b'23'")
        terminal.read_until(b"12345")
        terminal.type(b"6q")
        terminal.read_until(b"the run has ended: reset")
        terminal.read_until(rb"last b'echo: ready\n123456' reset")
        assert terminal.process.wait(DEADLINE) == 0
        assert not terminal.is_raw()


def test_person_takes_over_where_a_test_has_failed(tmp_path: Path) -> None:
    """By --pdb, which gives the terminal back that pytest's capture has taken.

    No deadline ends a session with a person.
    """
    (tmp_path / "test_login.py").write_text(FAILING)
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c/dev/null"]
    options = ["--pdb", f"--vmm-kernel={bare('echo')}", "--vmm-deadline=3"]
    with on_terminal([*pytest, *options, str(tmp_path)]) as terminal:
        terminal.read_until(b"(Pdb) ")
        terminal.type(b"import time; time.sleep(4)\n")
        terminal.read_until(b"(Pdb) ")
        terminal.type(b"vm.machines[0].console.interact()\n")
        terminal.read_until(b"echo: ready\r\nlogn: ")
        terminal.type(b"hello")
        terminal.read_until(b"hello")
        terminal.type(b"\x01x")
        terminal.read_until(b"(Pdb) ")
        terminal.type(b"vm.machines[0].console.read()\n")
        terminal.read_until(b"hello")
        terminal.read_until(b"(Pdb) ")
        terminal.type(b"'res' 'ult', vm.machines[0].result\n")
        terminal.read_until(b"('result', None)")
        terminal.read_until(b"(Pdb) ")
        terminal.type(b"c\n")
        terminal.read_until(b"1 failed")
        assert terminal.process.wait(DEADLINE) == 1
