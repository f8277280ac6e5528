"""I8042Device: when it resets the machine, when it interrupts."""

import pytest
from support.i8042_rig import COMMAND, DATA, KBDINT, KEYLOCK, SYSFLAG, Rig
from support.serial_rig import CountingTrigger

from vmm.devices.pc.i8042 import I8042Device


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def listening(rig: Rig) -> Rig:
    rig.listen()
    return rig


# --- reset ---------------------------------------------------------------


@pytest.mark.parametrize("command", range(0xF0, 0x100))
def test_a_pulse_resets_if_its_bit_0_is_low(rig: Rig, command: int) -> None:
    rig.command(command)
    assert rig.reset.edges == (command + 1) % 2


@pytest.mark.parametrize(
    ("value", "resets"), [(0xDE, 1), (0x00, 1), (0xDF, 0), (0x01, 0)]
)
def test_an_output_port_write_resets_if_bit_0_is_low(
    rig: Rig, value: int, resets: int
) -> None:
    rig.command(0xD1, value)
    assert rig.reset.edges == resets


def test_reboot_k_of_linux_is_one_status_read_and_fe(rig: Rig) -> None:
    assert not rig.status & 0x02
    rig.command(0xFE)
    assert rig.reset.edges == 1


def test_whoever_hears_the_reset_may_reset_the_controller_at_once() -> None:
    class ResetNow:
        def trigger(self) -> None:
            chip.reset()

    chip = I8042Device(ResetNow(), CountingTrigger())
    chip.write(COMMAND, 0xFE)
    assert chip.read(COMMAND) == SYSFLAG | KEYLOCK


def test_reset_returns_to_power_on(listening: Rig) -> None:
    fresh = Rig().chip.state()
    listening.command(0xD1, 0x03)
    listening.command(0xD4)
    listening.chip.send_scancodes(b"\x1c\x32")
    listening.chip.write(DATA, 0xED)
    listening.chip.reset()
    assert listening.chip.state() == fresh


# --- interrupts ----------------------------------------------------------


def test_each_byte_of_the_keyboard_makes_one_irq_1(listening: Rig) -> None:
    listening.chip.write(DATA, 0xF2)
    for expected, edges in ((0xFA, 1), (0xAB, 2), (0x83, 3)):
        assert listening.irq1.edges == edges
        assert listening.chip.read(DATA) == expected
    assert listening.irq1.edges == 3


def test_no_irq_1_unless_ctr_allows_it(rig: Rig) -> None:
    assert rig.send(0xEE) == [0xEE]
    assert rig.irq1.edges == 0


def test_irq_1_comes_when_ctr_allows_it_and_a_byte_waits(rig: Rig) -> None:
    rig.chip.write(DATA, 0xEE)
    rig.command(0x60, KBDINT)
    assert rig.irq1.edges == 1


def test_ctr_written_again_makes_no_second_interrupt(listening: Rig) -> None:
    listening.chip.write(DATA, 0xEE)
    listening.command(0x60, KBDINT)
    assert listening.irq1.edges == 1


def test_a_controller_answer_overtakes_the_keyboards_byte_which_is_kept(
    listening: Rig,
) -> None:
    listening.chip.send_scancodes(b"\x1c")
    assert listening.ask(0xAA) == 0x55
    assert listening.irq1.edges == 2  # again: its first may have met the answer
    assert listening.drain() == [0x1C]


def test_a_keyboard_byte_behind_an_answer_waits_with_its_interrupt(
    listening: Rig,
) -> None:
    listening.command(0xAA)
    listening.chip.send_scancodes(b"\x1c")
    assert listening.irq1.edges == 0
    assert listening.chip.read(DATA) == 0x55
    assert listening.irq1.edges == 1
