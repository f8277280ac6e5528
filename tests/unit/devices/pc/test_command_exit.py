"""CommandExit: what is written to the port is what the host is told."""

import pytest

from vmm.devices.pc.command_exit import CommandExit
from vmm.devices.resources import PioAddressConstraint


@pytest.fixture
def words() -> list[int]:
    """What the host was told."""
    return []


@pytest.fixture
def port(words: list[int]) -> CommandExit:
    return CommandExit(words.append)


def write(port: CommandExit, offset: int, data: bytes) -> None:
    port.pio_write(0x501, offset, memoryview(bytearray(data)))


def test_it_is_where_qemu_has_it() -> None:
    (constraint,) = CommandExit(lambda word: None).get_resource_constraints()
    assert constraint == PioAddressConstraint.at(0x501, 2)


@pytest.mark.parametrize("status", [0, 3, 143, 255])
def test_a_byte_is_the_status(port: CommandExit, words: list[int], status: int) -> None:
    write(port, 0, bytes([status]))
    assert words == [status]


def test_a_word_has_the_high_byte_too(port: CommandExit, words: list[int]) -> None:
    write(port, 0, b"\x7f\x02")
    assert words == [0x027F]


def test_the_high_byte_alone_waits_for_the_low_one(
    port: CommandExit, words: list[int]
) -> None:
    write(port, 1, b"\x02")
    assert words == []
    write(port, 0, b"\x7f")
    assert words == [0x027F]


def test_reset_forgets_the_high_byte(port: CommandExit, words: list[int]) -> None:
    write(port, 1, b"\x02")
    port.reset()
    write(port, 0, b"\x01")
    assert words == [1]


def test_reads_are_zero(port: CommandExit) -> None:
    data = bytearray(b"\xff\xff")
    port.pio_read(0x501, 0, memoryview(data))
    assert data == b"\0\0"
