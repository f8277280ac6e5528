"""Serial: MCR, MSR, its deltas, and the modem status interrupt."""

import pytest
from support.serial_rig import Rig

from vmm.devices.serial.reg import (
    UART_IER,
    UART_IER_MSI,
    UART_IIR,
    UART_IIR_MSI,
    UART_IIR_NO_INT,
    UART_MCR,
    UART_MCR_DTR,
    UART_MCR_LOOP,
    UART_MCR_OUT1,
    UART_MCR_OUT2,
    UART_MCR_RTS,
    UART_MSR,
    UART_MSR_CTS,
    UART_MSR_DCD,
    UART_MSR_DCTS,
    UART_MSR_DDCD,
    UART_MSR_DDSR,
    UART_MSR_DSR,
    UART_MSR_RI,
    UART_MSR_TERI,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_mcr_has_five_bits(rig: Rig) -> None:
    rig.serial.write(UART_MCR, 0xFF)
    assert rig.serial.read(UART_MCR) == 0x1F


@pytest.mark.parametrize(
    ("line", "msr"),
    [
        ({"cts": False}, 0xA0 | UART_MSR_DCTS),
        ({"dsr": False}, 0x90 | UART_MSR_DDSR),
        ({"dcd": False}, 0x30 | UART_MSR_DDCD),
        ({"ri": True}, 0xF0),
    ],
)
def test_msr_shows_a_line_and_its_delta(
    rig: Rig, line: dict[str, bool], msr: int
) -> None:
    rig.serial.set_modem_lines(**line)
    assert rig.serial.read(UART_MSR) == msr


def test_msr_teri_marks_the_trailing_edge_of_ri_only(rig: Rig) -> None:
    rig.serial.set_modem_lines(ri=True)
    assert not rig.serial.read(UART_MSR) & UART_MSR_TERI
    rig.serial.set_modem_lines(ri=False)
    assert rig.serial.read(UART_MSR) & UART_MSR_TERI


def test_msr_deltas_clear_on_read(rig: Rig) -> None:
    rig.serial.set_modem_lines(cts=False)
    rig.serial.read(UART_MSR)
    assert rig.serial.read(UART_MSR) == 0xA0


def test_msr_deltas_add_up_until_read(rig: Rig) -> None:
    rig.serial.set_modem_lines(cts=False)
    rig.serial.set_modem_lines(cts=True, dcd=False)
    assert rig.serial.read(UART_MSR) == 0x30 | UART_MSR_DCTS | UART_MSR_DDCD


def test_lines_that_do_not_change_give_no_delta(rig: Rig) -> None:
    rig.serial.write(UART_IER, UART_IER_MSI)
    rig.serial.set_modem_lines(cts=True, dsr=True, ri=False, dcd=True)
    assert rig.serial.read(UART_MSR) == 0xB0
    assert rig.trigger.edges == 0


def test_modem_interrupt_until_msr_is_read(rig: Rig) -> None:
    rig.serial.write(UART_IER, UART_IER_MSI)
    rig.serial.set_modem_lines(dcd=False)
    assert rig.trigger.edges == 1
    assert rig.serial.read(UART_IIR) == UART_IIR_MSI
    rig.serial.read(UART_MSR)
    assert rig.serial.read(UART_IIR) == UART_IIR_NO_INT


def test_modem_interrupt_when_it_is_enabled_after_the_change(rig: Rig) -> None:
    rig.serial.set_modem_lines(dcd=False)
    assert rig.trigger.edges == 0
    rig.serial.write(UART_IER, UART_IER_MSI)
    assert rig.trigger.edges == 1


@pytest.mark.parametrize(
    ("mcr", "msr"),
    [
        (UART_MCR_DTR, UART_MSR_DSR),
        (UART_MCR_RTS, UART_MSR_CTS),
        (UART_MCR_OUT1, UART_MSR_RI),
        (UART_MCR_OUT2, UART_MSR_DCD),
        (0, 0),
    ],
)
def test_loopback_wires_mcr_to_msr(rig: Rig, mcr: int, msr: int) -> None:
    rig.serial.write(UART_MCR, UART_MCR_LOOP | mcr)
    assert rig.serial.read(UART_MSR) & 0xF0 == msr


def test_loopback_changes_give_deltas_and_the_interrupt(rig: Rig) -> None:
    rig.serial.write(UART_MCR, UART_MCR_LOOP)
    rig.serial.read(UART_MSR)
    rig.serial.write(UART_IER, UART_IER_MSI)
    rig.serial.write(UART_MCR, UART_MCR_LOOP | UART_MCR_RTS)
    assert rig.trigger.edges == 1
    assert rig.serial.read(UART_MSR) == UART_MSR_CTS | UART_MSR_DCTS


def test_host_lines_show_when_loopback_is_left(rig: Rig) -> None:
    rig.serial.write(UART_MCR, UART_MCR_LOOP | 0x0B)
    rig.serial.read(UART_MSR)
    rig.serial.set_modem_lines(dcd=False)
    assert rig.serial.read(UART_MSR) == 0xB0
    rig.serial.write(UART_MCR, 0x0B)
    assert rig.serial.read(UART_MSR) == 0x30 | UART_MSR_DDCD
    assert UART_MSR_DCD & 0x30 == 0


def test_reset_keeps_the_lines_that_the_host_drives(rig: Rig) -> None:
    rig.serial.set_modem_lines(cts=False)
    rig.serial.reset()
    assert rig.serial.read(UART_MSR) == 0xA0
