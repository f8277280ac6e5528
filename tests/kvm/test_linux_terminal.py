"""An interactive shell in the guest, on a terminal as a person has it."""

import hashlib
import os
import sys

import pytest
from support.guests import DEADLINE, built
from support.terminals import on_terminal

pytestmark = pytest.mark.linux

PROMPT = b"# "


def command() -> list[str]:
    """A shell in the default guest."""
    options = ["--append", "quiet guest.shell"]
    initrd = str(built("initramfs-busybox.cpio"))
    return [sys.executable, "-m", "vmm", "run", *options, "--initrd", initrd]


@pytest.mark.both
def test_type_a_command_and_read_its_answer() -> None:
    with on_terminal(command()) as terminal:
        terminal.read_until(PROMPT)
        terminal.type(b"echo $((6 * 7)) answers\r")
        terminal.read_until(b"\n42 answers")
        terminal.read_until(PROMPT)
        terminal.type(b"echo for \x01bhpeople\r")
        terminal.read_until(b"sysrq: HELP : ")
        terminal.read_until(b"\nfor people")
        terminal.type(b"exit\r")
        assert b"guest: reset" in terminal.read_until(b"vmm: the guest reset")
        assert terminal.process.wait(DEADLINE) == 0
        assert not terminal.is_raw()


def test_ctrl_c_interrupts_the_guests_program_not_us() -> None:
    with on_terminal(command()) as terminal:
        terminal.read_until(PROMPT)
        # Only its output has the word whole. Who says it is in the foreground by then;
        # a program that the shell still is to execute would swallow the signal.
        terminal.type(b"sh -c 'echo run\"\"ning; exec sleep 1000'; ")
        terminal.type(b"echo not rea''ched\r")
        terminal.read_until(b"running")
        terminal.type(b"\x03")
        assert b"reached" not in terminal.read_until(PROMPT)
        terminal.type(b"\x01x")
        assert terminal.process.wait(DEADLINE) == 130


def test_paste_10_kb_without_losing_a_byte() -> None:
    text = b"".join(os.urandom(30).hex().encode() + b"\n" for _ in range(168))
    assert len(text) > 10_000
    with on_terminal(command()) as terminal:
        terminal.read_until(PROMPT)
        terminal.type(b"stty -echo; cat > /pasted; stty echo; md5sum /pasted\r")
        terminal.read_until(b"md5sum /pasted")
        terminal.read_until(b"\n")
        terminal.type(text.replace(b"\n", b"\r") + b"\x04")
        shown = terminal.read_until(b"  /pasted")
        assert hashlib.md5(text).hexdigest().encode() in shown
        terminal.type(b"\x01x")
        assert terminal.process.wait(DEADLINE) == 130
