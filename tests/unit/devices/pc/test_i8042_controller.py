"""I8042Device: status, command byte, RAM, self-tests and loopbacks."""

import pytest
from support.i8042_rig import (
    AUXDATA,
    AUXDIS,
    AUXINT,
    CMDDAT,
    DATA,
    KBDDIS,
    KBDINT,
    KEYLOCK,
    OBF,
    POWER_ON_CTR,
    SYSFLAG,
    TIMEOUT,
    Rig,
)

from vmm.devices.pc.i8042_state import MAX_RESPONSES


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- status and command byte ---------------------------------------------


def test_status_at_power_on_is_empty_unlocked_and_past_its_self_test(rig: Rig) -> None:
    assert rig.status == SYSFLAG | KEYLOCK


def test_status_never_says_that_the_input_buffer_is_full(rig: Rig) -> None:
    rig.command(0xD1)
    assert not rig.status & 0x02


def test_status_tells_whether_a_command_or_data_was_written_last(rig: Rig) -> None:
    rig.command(0x60)
    assert rig.status & CMDDAT
    rig.chip.write(DATA, POWER_ON_CTR)
    assert not rig.status & CMDDAT


def test_ctr_at_power_on_translates_and_holds_both_ports(rig: Rig) -> None:
    assert rig.ctr == POWER_ON_CTR


def test_ctr_reads_back_what_was_written(rig: Rig) -> None:
    rig.command(0x60, 0x47)
    assert rig.ctr == 0x47


def test_sysflag_of_the_status_follows_ctr(rig: Rig) -> None:
    rig.command(0x60, POWER_ON_CTR & ~SYSFLAG)
    assert not rig.status & SYSFLAG


def test_the_controllers_ram_has_32_bytes(rig: Rig) -> None:
    for at in range(1, 32):
        rig.command(0x60 + at, 0x80 + at)
    assert [rig.ask(0x20 + at) for at in range(1, 32)] == [*range(0x81, 0xA0)]


def test_a_command_cancels_one_that_waits_for_its_parameter(rig: Rig) -> None:
    rig.command(0x60)
    assert rig.ctr == POWER_ON_CTR
    rig.chip.write(DATA, 0xEE)
    assert rig.drain() == [0xEE]


@pytest.mark.parametrize(
    ("off", "on", "bit"), [(0xA7, 0xA8, AUXDIS), (0xAD, 0xAE, KBDDIS)]
)
def test_port_commands_move_their_bit_of_ctr(
    rig: Rig, off: int, on: int, bit: int
) -> None:
    rig.command(on)
    assert rig.ctr == POWER_ON_CTR & ~bit
    rig.command(off)
    assert rig.ctr == POWER_ON_CTR


def test_unknown_commands_are_ignored(rig: Rig) -> None:
    for command in (0x00, 0x1F, 0x40, 0x90, 0xA4, 0xC1, 0xDD, 0xEF):
        rig.command(command)
    assert rig.status == SYSFLAG | KEYLOCK | CMDDAT
    assert rig.reset.edges == 0


def test_other_offsets_read_0_and_ignore_writes(rig: Rig) -> None:
    rig.chip.write(1, 0xFE)
    assert [rig.chip.read(at) for at in (1, 2, 3, 5)] == [0] * 4
    assert rig.reset.edges == 0


def test_data_that_was_read_is_read_again_while_nothing_new_came(rig: Rig) -> None:
    assert rig.ask(0xAA) == 0x55
    assert rig.chip.read(DATA) == 0x55


# --- tests, loopbacks and the output port --------------------------------


@pytest.mark.parametrize(
    ("command", "answer"), [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x00), (0xC0, 0x80)]
)
def test_self_test_port_tests_and_input_port_answer(
    rig: Rig, command: int, answer: int
) -> None:
    rig.command(command)
    assert rig.status & (OBF | AUXDATA) == OBF
    assert rig.drain() == [answer]


def test_controller_answers_make_no_interrupt(rig: Rig) -> None:
    rig.command(0x60, KBDINT | AUXINT)
    rig.command(0x20)
    rig.command(0xAA)
    assert (rig.irq1.edges, rig.irq12.edges) == (0, 0)


def test_kbd_loop_comes_back_as_from_the_keyboard(rig: Rig) -> None:
    rig.command(0x60, KBDINT)
    rig.command(0xD2, 0x5A)
    assert rig.status & (OBF | AUXDATA) == OBF
    assert rig.irq1.edges == 1
    assert rig.drain() == [0x5A]


def test_aux_loop_comes_back_with_the_aux_bit_and_irq_12(rig: Rig) -> None:
    rig.command(0x60, AUXINT)
    rig.command(0xD3, 0x5A)
    assert rig.status & (OBF | AUXDATA | TIMEOUT) == OBF | AUXDATA
    assert (rig.irq1.edges, rig.irq12.edges) == (0, 1)
    assert rig.drain() == [0x5A]
    assert not rig.status & AUXDATA


def test_nothing_answers_on_the_aux_port_at_once(rig: Rig) -> None:
    rig.command(0x60, AUXINT)
    rig.command(0xD4, 0xF2)
    assert rig.status & (OBF | AUXDATA | TIMEOUT) == OBF | AUXDATA | TIMEOUT
    assert rig.irq12.edges == 1
    assert rig.drain() == [0xFE]


def test_without_an_aux_port_its_tests_fail_at_once() -> None:
    rig = Rig(aux=False)
    rig.command(0x60, AUXINT | AUXDIS)
    assert rig.ask(0xD3, 0x5A) == 0xFF
    assert rig.ask(0xA9) == 0x01
    rig.command(0xA8)
    assert rig.ctr & AUXDIS
    assert not rig.chip.has_aux


def test_output_port_reads_back_with_the_full_buffer_it_has(rig: Rig) -> None:
    assert rig.ask(0xD0) == 0xCF
    rig.command(0xD1, 0xDD)
    assert rig.ask(0xD0) == 0xCD
    rig.command(0xD3, 0x00)
    rig.command(0xD0)
    assert rig.drain() == [0x00, 0xED]
    rig.command(0xD2, 0x00)
    rig.command(0xD0)
    assert rig.drain() == [0x00, 0xDD]


# --- bounds --------------------------------------------------------------


def test_answers_that_a_guest_leaves_unread_are_bounded(rig: Rig) -> None:
    for _ in range(1_000):
        rig.command(0xAA)
        rig.command(0xD3, 0x5A)
        rig.chip.write(DATA, 0xF2)
    assert len(rig.chip.state().responses) == MAX_RESPONSES
    assert len(rig.drain()) == MAX_RESPONSES + 4  # and FA, then FA AB 83
