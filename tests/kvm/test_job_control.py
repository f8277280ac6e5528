"""`vmm run` under a shell with job control: as any full-screen program."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.guests import bare, wait_until
from support.terminals import Terminal, on_terminal

# Without an editor of lines, bash leaves the terminal as it is.
BASH = ("bash", "--norc", "--noprofile", "--noediting", "-i")
PROMPT = b"ready> "


def echo() -> bytes:
    """The command that boots a guest that echoes."""
    return f"{sys.executable} -m vmm run --quiet --kernel {bare('echo')}".encode()


class Shell:
    """bash on a terminal, and what a person does there."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.ask(b"PS1='ready''> '")

    def ask(self, command: bytes) -> bytes:
        self.terminal.type(command + b"\n")
        return self.terminal.read_until(PROMPT)

    def start(self) -> None:
        """Boot a guest that echoes, in the foreground."""
        self.terminal.type(echo() + b"\n")
        self.terminal.read_until(b"echo: ready")
        self.await_raw()

    def await_raw(self) -> None:
        wait_until(self.terminal.is_raw, "the keys are the guest's")

    def send(self, number: signal.Signals) -> None:
        pid = self.terminal.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(child), number)

    def stop(self, number: signal.Signals = signal.SIGTSTP) -> None:
        self.send(number)
        self.terminal.read_until(PROMPT)

    def guest_has_its_keys(self) -> None:
        """It echoes what is typed, Ctrl-C and Ctrl-Z as well, and ends at `q`."""
        self.await_raw()
        self.terminal.type(b"key\x03\x1a!")
        self.terminal.read_until(b"key\x03\x1a!")
        self.terminal.type(b"q")
        self.terminal.read_until(PROMPT)
        assert not self.terminal.is_raw()


@pytest.fixture
def shell() -> Iterator[Shell]:
    with on_terminal(BASH) as terminal:
        yield Shell(terminal)


@pytest.mark.parametrize("number", [signal.SIGTSTP, signal.SIGSTOP])
def test_continued_in_the_foreground_the_guest_has_its_keys_again(
    shell: Shell, number: signal.Signals
) -> None:
    shell.start()
    shell.stop(number)
    assert not shell.terminal.is_raw()
    shell.terminal.type(b"fg\n")
    shell.guest_has_its_keys()


def test_terminal_is_as_it_was_before_the_last_stop(shell: Shell) -> None:
    shell.start()
    shell.stop()
    assert b"-echo " not in shell.ask(b"stty -a")
    shell.ask(b"stty -echoctl")
    shell.terminal.type(b"fg\n")
    shell.guest_has_its_keys()
    assert b"-echoctl" in shell.ask(b"stty -a")


def test_continued_in_the_background_it_ends_and_is_not_stopped(shell: Shell) -> None:
    shell.start()
    shell.stop()
    shell.ask(b"bg")
    assert not shell.terminal.is_raw()
    assert b"typed: 2" in shell.ask(b"echo typed: $((1 + 1))")  # the keys are bash's
    shell.send(signal.SIGTERM)
    assert b"status 143" in shell.ask(b"wait %1; echo status $?")
    assert not shell.terminal.is_raw()


def test_fetched_back_from_the_background_the_guest_has_its_keys(shell: Shell) -> None:
    shell.start()
    shell.stop()
    shell.ask(b"bg")
    shell.terminal.type(b"fg\n")
    shell.guest_has_its_keys()


def test_started_in_the_background_it_runs_and_can_be_fetched(shell: Shell) -> None:
    shell.terminal.type(echo() + b" &\n")
    shell.terminal.read_until(b"echo: ready")
    assert b"typed: 2" in shell.ask(b"echo typed: $((1 + 1))")
    shell.terminal.type(b"fg\n")
    shell.guest_has_its_keys()
