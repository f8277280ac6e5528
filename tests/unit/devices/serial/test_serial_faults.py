"""The faults of vm-superio's Serial, each shown to be absent here."""

import pytest
from support.serial_rig import Rig

from vmm.devices.serial.reg import (
    UART_FCR,
    UART_IER,
    UART_IER_MSI,
    UART_IER_RDI,
    UART_IER_RLSI,
    UART_IER_THRI,
    UART_IIR,
    UART_LCR,
    UART_LCR_SBC,
    UART_LSR,
    UART_LSR_BI,
    UART_LSR_DR,
    UART_LSR_FE,
    UART_LSR_OE,
    UART_LSR_PE,
    UART_LSR_THRE,
    UART_MCR,
    UART_MCR_LOOP,
    UART_MSR,
    UART_RX,
    UART_TX,
)

ALL_INTERRUPTS = UART_IER_RDI | UART_IER_THRI | UART_IER_RLSI | UART_IER_MSI


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_fault_no_priority_encoder(rig: Rig) -> None:
    """All causes pending: IIR reports them one by one, highest first."""
    rig.serial.write(UART_FCR, 0x01)
    rig.serial.write(UART_IER, ALL_INTERRUPTS)
    rig.serial.set_modem_lines(dcd=False)
    rig.serial.enqueue_raw_bytes(b"ab")
    rig.clock.advance(1_000_000_000)
    rig.serial.inject_overrun()
    reported = [rig.serial.read(UART_IIR)]
    rig.serial.read(UART_LSR)
    reported.append(rig.serial.read(UART_IIR))
    rig.serial.write(UART_FCR, 0xC1)
    reported.append(rig.serial.read(UART_IIR))
    rig.serial.read(UART_RX)
    reported.append(rig.serial.read(UART_IIR))
    reported.append(rig.serial.read(UART_IIR))
    rig.serial.read(UART_MSR)
    reported.append(rig.serial.read(UART_IIR))
    assert reported == [0xC6, 0xC4, 0xCC, 0xC2, 0xC0, 0xC1]


def test_fault_rx_cause_vanishes_with_bytes_left(rig: Rig) -> None:
    rig.serial.write(UART_FCR, 0x01)
    rig.serial.write(UART_IER, UART_IER_RDI)
    rig.serial.enqueue_raw_bytes(b"abc")
    rig.serial.read(UART_RX)
    assert rig.serial.read(UART_LSR) & UART_LSR_DR
    assert rig.serial.read(UART_IIR) == 0xC4


def test_fault_data_queued_while_masked_never_interrupts(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"x")
    assert rig.trigger.edges == 0
    rig.serial.write(UART_IER, UART_IER_RDI)
    assert rig.trigger.edges == 1
    assert rig.serial.read(UART_IIR) == 0x04


def test_fault_enabling_thri_with_an_empty_thr_raises_nothing(rig: Rig) -> None:
    rig.serial.write(UART_IER, UART_IER_THRI)
    assert rig.trigger.edges == 1
    assert rig.serial.read(UART_IIR) == 0x02


def test_fault_fcr_07_does_not_flush(rig: Rig) -> None:
    rig.serial.write(UART_FCR, 0x01)
    rig.serial.enqueue_raw_bytes(b"stale")
    rig.serial.write(UART_FCR, 0x07)
    assert not rig.serial.read(UART_LSR) & UART_LSR_DR


def test_fault_fcr_trigger_level_is_ignored(rig: Rig) -> None:
    rig.serial.write(UART_IER, UART_IER_RDI)
    rig.serial.write(UART_FCR, 0x81)
    rig.serial.enqueue_raw_bytes(bytes(7))
    assert rig.serial.read(UART_IIR) == 0xC1


def test_fault_mcr_reads_back_ff(rig: Rig) -> None:
    rig.serial.write(UART_MCR, 0xFF)
    assert rig.serial.read(UART_MCR) == 0x1F


def test_fault_break_is_ignored(rig: Rig) -> None:
    rig.serial.write(UART_MCR, UART_MCR_LOOP)
    rig.serial.write(UART_LCR, 0x03 | UART_LCR_SBC)
    assert rig.serial.read(UART_LSR) & UART_LSR_BI


def test_fault_rx_errors_can_not_be_shown(rig: Rig) -> None:
    rig.serial.inject_error(ord("x"), UART_LSR_PE | UART_LSR_FE)
    rig.serial.inject_overrun()
    rig.serial.read(UART_RX)
    rig.serial.inject_break()
    assert rig.serial.read(UART_LSR) & 0x1E == (
        UART_LSR_OE | UART_LSR_PE | UART_LSR_FE | UART_LSR_BI
    )


def test_fault_blocked_out_stalls_the_driver_for_ever() -> None:
    rig = Rig(room=0)
    rig.serial.write(UART_FCR, 0x01)
    rig.serial.write(UART_IER, UART_IER_THRI)
    rig.serial.read(UART_IIR)
    for byte in b"0123456789abcdef":
        rig.serial.write(UART_TX, byte)
    assert not rig.serial.read(UART_LSR) & UART_LSR_THRE
    edges = rig.trigger.edges
    rig.sink.make_room(100)
    assert rig.sink.data == b"0123456789abcdef"
    assert rig.trigger.edges == edges + 1
    assert rig.serial.read(UART_IIR) == 0xC2


def test_fault_msr_deltas_and_interrupt_are_missing(rig: Rig) -> None:
    rig.serial.write(UART_IER, UART_IER_MSI)
    rig.serial.set_modem_lines(cts=False)
    assert rig.trigger.edges == 1
    assert rig.serial.read(UART_MSR) & 0x0F == 0x01
    assert rig.serial.read(UART_MSR) & 0x0F == 0x00
