"""The agent of the software machine, run here over socket pairs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from scripts.with_kvm.agent import Agent
from scripts.with_kvm.supervisor import (
    Control,
    Heartbeat,
    MachineError,
    inner_environment,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PORTS = ("control", "stdin", "stdout", "stderr")
TIMEOUT_S = 20.0


class Bench:
    """An agent on a thread, and the supervisor's ends of its ports."""

    def __init__(self) -> None:
        pairs = {name: socket.socketpair() for name in PORTS}
        self.port = {name: pair[0] for name, pair in pairs.items()}
        for port in self.port.values():
            port.settimeout(TIMEOUT_S)
        self.control = Control(self.port["control"])
        # The agent owns its descriptors and closes some of them.
        self._agent = Agent([far.detach() for _, far in pairs.values()], alone=False)
        self._thread = threading.Thread(target=self._agent.run)
        self._drains: list[threading.Thread] = []
        self._directory = os.getcwd()
        self._environment = dict(os.environ)

    def start(self, *argv: str, **changes: object) -> dict[str, Any]:
        """Start a command; return the agent's answer."""
        self._thread.start()
        assert self.control.receive(TIMEOUT_S) == {"op": "ready"}
        message: dict[str, object] = {
            "argv": argv,
            "cwd": "/",
            "env": {"PATH": os.environ["PATH"]},
            "umask": 0o022,
            "out": None,
            "tty": [False] * 3,
            "size": [24, 80],
        }
        self.control.send(op="start", **(message | changes))
        return self.control.receive(TIMEOUT_S)

    def read(self, name: str, count: int) -> bytes:
        """Read exactly `count` bytes of an output port."""
        data = b""
        while len(data) < count:
            data += self.port[name].recv(count - len(data))
        return data

    def drain(self, name: str) -> None:
        """Read and forget an output port until close()."""

        def read() -> None:
            with contextlib.suppress(ConnectionError):
                while self.port[name].recv(1 << 16):
                    pass

        self._drains.append(threading.Thread(target=read))
        self._drains[-1].start()

    def end(self) -> dict[str, Any]:
        """Return the exit message."""
        return self.control.receive(TIMEOUT_S)

    def close(self) -> None:
        """Close the ports, which ends the agent's threads."""
        self._thread.join(TIMEOUT_S)
        for port in self.port.values():
            port.shutdown(socket.SHUT_RDWR)
        for drain in self._drains:
            drain.join(TIMEOUT_S)
        for port in self.port.values():
            port.close()
        os.chdir(self._directory)
        os.environ.clear()
        os.environ.update(self._environment)
        assert not self._thread.is_alive()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A bench whose agent has ended when the test has."""
    result = Bench()
    yield result
    result.close()


def test_exit_tells_status_and_bytes_of_each_stream(bench: Bench) -> None:
    bench.start("sh", "-c", "printf four; printf three33 >&2; exit 3")
    end = bench.end()
    assert (end["status"], end["stdout"], end["stderr"]) == (3, 4, 7)
    assert end["errors"] == []
    assert bench.read("stdout", 4) == b"four"
    assert bench.read("stderr", 7) == b"three33"


def test_command_that_is_missing_is_127(bench: Bench) -> None:
    reply = bench.start("no-such-command")
    assert reply["status"] == 127
    assert b"no-such-command: command not found" in bench.read(
        "stderr", reply["stderr"]
    )


def test_command_that_is_no_program_is_126(bench: Bench) -> None:
    assert bench.start("/etc/passwd")["status"] == 126


def test_directory_that_is_missing_in_there_is_125(bench: Bench) -> None:
    assert bench.start("true", cwd="/no/such/directory")["status"] == 125


def test_input_ends_after_the_bytes_told(bench: Bench) -> None:
    bench.start("cat")
    bench.port["stdin"].sendall(b"some input")
    bench.control.send(op="eof", sent=10)
    assert bench.read("stdout", 10) == b"some input"
    assert bench.end()["status"] == 0


def test_end_of_input_may_be_told_before_its_bytes_come(bench: Bench) -> None:
    bench.start("cat")
    bench.control.send(op="eof", sent=10)
    bench.port["stdin"].sendall(b"some input")
    assert bench.read("stdout", 10) == b"some input"
    assert bench.end()["status"] == 0


def test_signal_reaches_the_command(bench: Bench) -> None:
    bench.start("sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done")
    assert bench.read("stdout", 3) == b"up\n"
    bench.control.send(op="signal", number=signal.SIGTERM)
    assert bench.end()["status"] == 7


def test_command_killed_by_a_signal_is_128_and_its_number(bench: Bench) -> None:
    bench.start("sh", "-c", "kill -9 $$")
    assert bench.end()["status"] == 137


def test_writer_to_a_closed_stream_gets_sigpipe(bench: Bench) -> None:
    bench.start("sh", "-c", "while :; do echo y; done")
    bench.control.send(op="closed", stream="stdout")
    bench.drain("stdout")
    assert bench.end()["status"] == 128 + signal.SIGPIPE


def test_terminal_has_the_size_told(bench: Bench) -> None:
    bench.start("stty", "size", tty=[True] * 3, size=[33, 111])
    assert bench.end()["stdout"] == len("33 111\r\n")
    assert bench.read("stdout", 8) == b"33 111\r\n"


def test_resize_reaches_the_terminal(bench: Bench) -> None:
    script = "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.01; done"
    bench.start("sh", "-c", script, tty=[True] * 3)
    assert bench.read("stdout", 4) == b"up\r\n"
    bench.control.send(op="resize", size=[40, 132])
    assert bench.read("stdout", 8) == b"40 132\r\n"
    assert bench.end()["status"] == 0


def test_interrupt_character_interrupts_the_command(bench: Bench) -> None:
    bench.start("sh", "-c", "echo up; exec sleep 60", tty=[True] * 3)
    assert bench.read("stdout", 4) == b"up\r\n"
    bench.port["stdin"].sendall(b"\x03")
    assert bench.end()["status"] == 130


def test_host_sockets_are_not_named_inside() -> None:
    inner = inner_environment({"SSH_AUTH_SOCK": "/run/x", "A": "b"}, "/out")
    assert inner == {"A": "b", "WITH_KVM_OUT": "/out"}


def test_messages_may_come_in_pieces() -> None:
    near, far = socket.socketpair()
    with near, far:
        line = json.dumps({"op": "ready"}).encode() + b"\n"
        far.sendall(line + line[:5])
        control = Control(near)
        control.receive(TIMEOUT_S)
        far.sendall(line[5:])
        assert control.receive(TIMEOUT_S) == {"op": "ready"}


def test_a_tick_is_answered_while_the_command_runs(bench: Bench) -> None:
    bench.start("cat")
    bench.control.send(op="tick")
    assert bench.control._receive(TIMEOUT_S) == {"op": "tock"}
    bench.control.send(op="eof", sent=0)
    assert bench.end()["status"] == 0


def test_ticks_do_not_count_as_messages_and_stop_with_the_heartbeat() -> None:
    ours, far = socket.socketpair()
    control = Control(ours)
    heartbeat = Heartbeat(control)
    heartbeat.start()
    assert json.loads(far.makefile("rb").readline()) == {"op": "tick"}
    heartbeat.stop()
    far.sendall(b'{"op": "tock"}\n{"op": "exit"}\n')
    assert control.receive(TIMEOUT_S) == {"op": "exit"}
    ours.close()
    far.close()


def test_a_machine_that_answers_no_tick_is_given_up() -> None:
    ours, far = socket.socketpair()
    with pytest.raises(MachineError, match="no answer"):
        Control(ours).receive(0.01)
    ours.close()
    far.close()
