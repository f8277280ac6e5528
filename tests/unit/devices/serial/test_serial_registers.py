"""Serial: what each register holds, and which access reaches it."""

import pytest
from support.serial_rig import Rig

from vmm.devices.serial.reg import (
    UART_DLL,
    UART_DLM,
    UART_FCR,
    UART_FCR_ENABLE_FIFO,
    UART_IER,
    UART_IIR,
    UART_LCR,
    UART_LCR_DLAB,
    UART_LCR_WLEN8,
    UART_LSR,
    UART_MCR,
    UART_MSR,
    UART_RX,
    UART_SCR,
    UART_TX,
)

RESET_VALUES = [
    (UART_RX, 0x00),
    (UART_IER, 0x00),
    (UART_IIR, 0x01),
    (UART_LCR, 0x03),
    (UART_MCR, 0x08),
    (UART_LSR, 0x60),
    (UART_MSR, 0xB0),
    (UART_SCR, 0x00),
]


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize(("offset", "value"), RESET_VALUES)
def test_reset_value(rig: Rig, offset: int, value: int) -> None:
    assert rig.serial.read(offset) == value


def test_reset_divisor_is_9600_baud(rig: Rig) -> None:
    rig.serial.write(UART_LCR, UART_LCR_DLAB)
    assert (rig.serial.read(UART_DLL), rig.serial.read(UART_DLM)) == (0x0C, 0x00)


@pytest.mark.parametrize(("offset", "value"), RESET_VALUES)
def test_reset_restores_every_register(rig: Rig, offset: int, value: int) -> None:
    rig.serial.enqueue_raw_bytes(b"input")
    for register in range(8):
        rig.serial.write(register, 0x9F)
    rig.serial.reset()
    assert rig.serial.read(offset) == value


def test_reset_turns_the_fifos_off(rig: Rig) -> None:
    rig.serial.write(UART_FCR, UART_FCR_ENABLE_FIFO)
    rig.serial.reset()
    assert rig.serial.state().fifo_control == 0


def test_reset_keeps_sink_and_trigger(rig: Rig) -> None:
    rig.serial.reset()
    rig.serial.write(UART_TX, ord("x"))
    assert rig.sink.data == b"x"
    assert rig.serial.writer() is rig.sink
    assert rig.serial.interrupt_evt() is rig.trigger
    assert rig.serial.events() is rig.metrics


def test_lcr_dlab_set_routes_offset_0_to_dll(rig: Rig) -> None:
    rig.serial.write(UART_LCR, UART_LCR_DLAB)
    rig.serial.write(UART_DLL, 0x01)
    assert rig.serial.read(UART_DLL) == 0x01
    assert rig.sink.data == b""


def test_lcr_dlab_set_routes_offset_1_to_dlm(rig: Rig) -> None:
    rig.serial.write(UART_LCR, UART_LCR_DLAB)
    rig.serial.write(UART_DLM, 0xA5)
    assert rig.serial.read(UART_DLM) == 0xA5
    rig.serial.write(UART_LCR, UART_LCR_WLEN8)
    assert rig.serial.read(UART_IER) == 0x00


def test_lcr_dlab_clear_routes_offset_0_to_rbr_and_thr(rig: Rig) -> None:
    rig.serial.enqueue_raw_bytes(b"r")
    rig.serial.write(UART_TX, ord("t"))
    assert rig.serial.read(UART_RX) == ord("r")
    assert rig.sink.data == b"t"


def test_lcr_dlab_leaves_the_other_offsets_alone(rig: Rig) -> None:
    rig.serial.write(UART_LCR, UART_LCR_DLAB)
    rig.serial.write(UART_SCR, 0x5A)
    assert rig.serial.read(UART_SCR) == 0x5A
    assert rig.serial.read(UART_IIR) == 0x01


def test_ier_has_four_bits(rig: Rig) -> None:
    rig.serial.write(UART_IER, 0xFF)
    assert rig.serial.read(UART_IER) == 0x0F


@pytest.mark.parametrize("value", [0x00, 0x5A, 0xFF])
def test_scr_and_lcr_hold_eight_bits(rig: Rig, value: int) -> None:
    for offset in (UART_SCR, UART_LCR):
        rig.serial.write(offset, value)
        assert rig.serial.read(offset) == value


@pytest.mark.parametrize("offset", [UART_LSR, UART_MSR])
def test_writes_to_status_registers_are_ignored_and_counted(
    rig: Rig, offset: int
) -> None:
    before = rig.serial.read(offset)
    rig.serial.write(offset, 0xFF)
    assert rig.serial.read(offset) == before
    assert rig.serial.ignored_accesses == 1


def test_offsets_above_7_read_0_and_ignore_writes(rig: Rig) -> None:
    rig.serial.write(8, 0xFF)
    assert rig.serial.read(8) == 0
    assert rig.serial.ignored_accesses == 2


def test_only_the_low_byte_of_a_value_counts(rig: Rig) -> None:
    rig.serial.write(UART_TX, 0x141)
    assert rig.sink.data == b"A"
