"""What a driver's author tests: that a kernel runs a program, and talks with it."""

from pathlib import Path

import pytest

from vmm.machine import Machine
from vmm.testing import VmFactory


@pytest.mark.parametrize("status", [0, 3])
def test_status_of_a_command(vm: VmFactory, program: Path, status: int) -> None:
    result = vm(command=f"/p {status}", files={"/p": program}).run()
    assert result.guest_status == status, result


class TestConversation:
    """Two tests with one guest, which boots once."""

    def test_first(self, talker: Machine) -> None:
        talker.console.sendline("one")
        talker.console.expect("answer: one", timeout=60)

    def test_second(self, talker: Machine) -> None:
        talker.console.sendline("two")
        talker.console.expect("answer: two", timeout=60)
