"""`vmm run --shell` on a terminal, with the real agent, but this host for a guest."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.guests import built
from support.terminals import on_terminal

PROGRAM = """
import sys, threading
from pathlib import Path
from support.agent_rig import agent_process
from vmm.cli.shell import shell_status
from vmm.result import ExitReason, RunResult


class Machine:
    def __init__(self, guest, session):
        self.guest, self.session = guest, session
        self.console = self

    def send_break(self, before):
        pass

    def stop(self, detail):
        result = RunResult(ExitReason.STOPPED, 130, detail=detail)
        threading.Thread(target=self.session.end, args=(result,)).start()


with agent_process(Path(sys.argv[1])) as (guest, wire):
    print("status", shell_status(Machine(guest, wire.session), quiet=True))
"""


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    program = tmp_path / "vmm-agent"
    program.write_bytes(built("vmm-agent").read_bytes())
    program.chmod(0o755)
    return program


@pytest.fixture
def command(agent: Path) -> list[str]:
    paths = f"import sys; sys.path[:0] = {sys.path!r}"
    return [sys.executable, "-c", f"{paths}\n{PROGRAM}", str(agent)]


def test_shell_on_a_terminal_that_is_resized(command: list[str]) -> None:
    with on_terminal(command) as terminal:
        terminal.resize(31, 99)
        terminal.type(b"stty -echo; echo read''y\n")
        terminal.read_until(b"ready")
        terminal.type(b"stty size; tty\n")
        terminal.read_until(b"31 99")
        terminal.read_until(b"/dev/pts/")
        terminal.resize(45, 101)
        terminal.type(b'until [ "$(stty size)" = "45 101" ]; do sleep 0.01; done\n')
        terminal.type(b"echo re''sized\n")
        terminal.read_until(b"resized")
        assert terminal.is_raw()
        terminal.type(b'sh -c \'trap "exit 3" INT; echo g""o; sleep 9; sleep 9\'\n')
        terminal.read_until(b"go")
        terminal.type(b"\x03")  # Ctrl-C is the guest's
        terminal.type(b"echo st''atus $?\n")
        terminal.read_until(b"status 3")
        terminal.type(b"exit 7\n")
        terminal.read_until(b"status 7")


def test_keys_that_end_it(command: list[str]) -> None:
    with on_terminal(command) as terminal:
        terminal.type(b"stty -echo; echo read''y\n")
        terminal.read_until(b"ready")
        terminal.type(b"\x01x")
        terminal.read_until(b"status None")


LOSES_ITS_AGENT = """
import sys, threading
from pathlib import Path
from support.agent_rig import agent_process
from vmm.cli.shell import shell_status
from vmm.errors import VmmError


class Machine:
    console = None

    def __init__(self, guest):
        self.guest = guest


def lose():
    with wire.session.changed:
        wire.session._lose()
        wire.session.changed.notify_all()


with agent_process(Path(sys.argv[1])) as (guest, wire):
    threading.Timer(0.5, lose).start()
    try:
        shell_status(Machine(guest), quiet=True)
    except VmmError as error:
        print("told:", error)
"""


def test_lost_agent_is_told_once(agent: Path) -> None:
    paths = f"import sys; sys.path[:0] = {sys.path!r}"
    with subprocess.Popen(
        [sys.executable, "-c", f"{paths}\n{LOSES_ITS_AGENT}", str(agent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None  # stdin stays open
        assert process.stderr is not None
        told = process.stdout.read()
        assert told.startswith(b"told: guest: what its agent sent")
        assert process.stderr.read() == b""


def test_shell_whose_errors_cant_be_written(command: list[str]) -> None:
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=full
        ) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(b"echo x >&2\n")
        process.stdin.flush()
        assert process.wait(10) == 1
