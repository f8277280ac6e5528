"""A script that talks with a shell on ttyS0 loses no byte, and copies lose none."""

import os
import socket
from pathlib import Path

import pytest
from support.guests import DEADLINE, Shell, bare_machine, built, wait_until

from vmm import GuestEnded, Machine, MachineConfig
from vmm.expect.history import IN_MEMORY

COMMANDS = int(os.environ.get("VMM_TEST_COMMANDS", "200"))


@pytest.mark.linux
def test_commands_and_answers_lose_no_byte(tmp_path: Path) -> None:
    config = MachineConfig(
        initrd=built("initramfs-busybox.cpio"),
        append="quiet guest.shell",
        tee=(f"file:{tmp_path}/copy",),
    )
    with Machine(config) as machine:
        machine.start()
        observer = machine.console.reader()
        shell = Shell(machine)
        seen = len(machine.console.transcript)
        answers = [shell.ask(f"echo $(({number}*7))") for number in range(COMMANDS)]
        expected = [f"{7 * n}\r\n" for n in range(COMMANDS)]
        talk = machine.console.transcript[seen:]
        assert answers == expected
        assert talk.decode() == "".join(answer + Shell.PROMPT for answer in expected)
        machine.console.sendline("exit")
        result = machine.wait(DEADLINE)
        assert len(machine.console.transcript) == result.console_bytes
        assert observer.read() == machine.console.transcript
        assert (tmp_path / "copy").read_bytes() == machine.console.transcript


def test_copies_go_to_a_file_and_a_socket_at_once_while_a_script_reads(
    tmp_path: Path,
) -> None:
    tee = (f"file:{tmp_path}/log", f"unix:{tmp_path}/sock")
    with bare_machine("echo", tee=tee) as machine:
        machine.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "sock"))
            client.settimeout(DEADLINE)
            machine.console.expect("echo: ready\n", DEADLINE)
            machine.console.send("once")
            machine.console.expect("once", DEADLINE)
            wait_until(lambda: b"once" in client.recv(4096), "the socket's copy")
        machine.stop()
        machine.wait(DEADLINE)
        assert (tmp_path / "log").read_bytes() == machine.console.transcript


def test_guest_that_prints_without_a_reader_is_not_held() -> None:
    """It prints more than sink and memory take; the rest waits in a file."""
    with bare_machine("flood", serial_buffer="4K", timeout=DEADLINE) as machine:
        machine.start()
        wait_until(lambda: len(machine.console.transcript) > IN_MEMORY, "a flood")
        machine.stop()
        result = machine.wait(DEADLINE)
        assert result.console_dropped == 0
        assert machine.console.read() == machine.console.transcript
        with pytest.raises(GuestEnded):
            machine.console.expect("more", DEADLINE)
