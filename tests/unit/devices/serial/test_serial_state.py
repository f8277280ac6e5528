"""Serial.state and Serial.from_state."""

from dataclasses import asdict, replace
from typing import Any

import pytest
from support.serial_rig import Rig, through_json

from vmm.devices.errors import FullFifo
from vmm.devices.serial.reg import (
    UART_FCR,
    UART_IER,
    UART_IER_RDI,
    UART_IER_THRI,
    UART_IIR,
    UART_LCR,
    UART_LSR,
    UART_MSR,
    UART_RX,
    UART_TX,
)
from vmm.devices.serial.uart import Serial, SerialState

VM_SUPERIO_FIELDS = {
    "baud_divisor_low": 0x0C,
    "baud_divisor_high": 0,
    "interrupt_enable": 0x01,
    "interrupt_identification": 0x04,
    "line_control": 0x03,
    "line_status": 0x61,
    "modem_control": 0x08,
    "modem_status": 0xB0,
    "scratch": 0x7E,
    "in_buffer": [104, 105],
}


@pytest.fixture
def busy() -> Rig:
    """Something in every field."""
    rig = Rig(room=0)
    serial = rig.serial
    serial.write(UART_LCR, 0x83)
    serial.write(0, 0x34)
    serial.write(1, 0x12)
    serial.write(UART_LCR, 0x03)
    serial.write(UART_FCR, 0xC9)
    serial.write(UART_IER, 0x0F)
    serial.write(UART_TX, ord("t"))
    serial.enqueue_raw_bytes(b"ab")
    serial.inject_break()
    serial.set_modem_lines(ri=True, dcd=False)
    rig.clock.advance(1_000_000)
    return rig


def test_state_survives_json(busy: Rig) -> None:
    state = busy.serial.state()
    assert through_json(state) == state


def test_state_names_every_part(busy: Rig) -> None:
    state = busy.serial.state()
    assert state.rx_timeout_ns is not None
    assert asdict(state) | {"rx_timeout_ns": 0} == {
        "baud_divisor_low": 0x34,
        "baud_divisor_high": 0x12,
        "interrupt_enable": 0x0F,
        "interrupt_identification": 0x00,
        "line_control": 0x03,
        "line_status": 0x81,
        "modem_control": 0x08,
        "modem_status": 0x78,
        "scratch": 0,
        "in_buffer": (97, 98, 0),
        "in_buffer_errors": (0, 0, 0x10),
        "fifo_control": 0xC9,
        "tx_buffer": (116,),
        "thre_pending": False,
        "rx_timeout_pending": False,
        "rx_timeout_ns": 0,
        "modem_lines": 0x70,
    }


def test_restored_is_the_same_again(busy: Rig) -> None:
    assert busy.clone().serial.state() == busy.serial.state()


def test_restored_rx_timeout_comes_when_it_was_due(busy: Rig) -> None:
    left = busy.serial.state().rx_timeout_ns
    assert left is not None
    copy = busy.clone()
    copy.clock.advance(left - 1)
    assert not copy.serial.state().rx_timeout_pending
    copy.clock.advance(1)
    assert copy.serial.state().rx_timeout_pending


def test_restored_rx_timeout_that_is_pending_stays(busy: Rig) -> None:
    busy.clock.advance(60_000_000_000)
    assert busy.serial.state().rx_timeout_pending
    assert busy.clone().serial.state().rx_timeout_pending


def test_restored_tx_bytes_go_out_when_the_sink_has_room(busy: Rig) -> None:
    copy = busy.clone()
    copy.sink.make_room(1)
    assert copy.sink.data == b"t"


def test_restored_tx_bytes_go_out_at_once_to_a_sink_with_room(busy: Rig) -> None:
    copy = Rig(state=busy.serial.state())
    assert copy.sink.data == b"t"
    assert copy.serial.read(UART_LSR) & 0x60 == 0x60


def test_restoring_pulls_the_trigger_for_a_pending_interrupt() -> None:
    rig = Rig()
    rig.serial.write(UART_IER, UART_IER_RDI)
    rig.serial.enqueue_raw_bytes(b"x")
    copy = rig.clone()
    assert copy.trigger.edges == 1
    assert copy.serial.read(UART_IIR) == 0x04


def test_restoring_does_not_pull_the_trigger_for_nothing() -> None:
    assert Rig().clone().trigger.edges == 0


def test_restoring_keeps_a_pending_thre() -> None:
    rig = Rig()
    rig.serial.write(UART_IER, UART_IER_THRI)
    assert rig.clone().serial.read(UART_IIR) == 0x02


@pytest.mark.parametrize("name", ["in_buffer", "tx_buffer"])
def test_from_state_with_more_than_64_bytes_raises_full_fifo(name: str) -> None:
    overfull: dict[str, Any] = {name: (0,) * 65}
    rig = Rig()
    with pytest.raises(FullFifo, match=f"{name} holds 65"):
        Serial.from_state(
            replace(rig.serial.state(), **overfull),
            rig.trigger,
            rig.sink,
            clock=rig.clock,
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [("scratch", 256), ("line_control", -1), ("in_buffer", (7, 999)), ("scratch", "a")],
)
def test_state_refuses_what_is_no_byte(name: str, value: object) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=name):
        replace(Rig().serial.state(), **wrong)


def test_state_of_vm_superio_is_accepted() -> None:
    fields: dict[str, Any] = VM_SUPERIO_FIELDS
    rig = Rig(state=SerialState(**fields))
    assert rig.trigger.edges == 1
    assert [rig.serial.read(UART_RX) for _ in range(2)] == [104, 105]
    assert rig.serial.read(UART_MSR) == 0xB0


def test_state_without_its_timeout_gets_a_new_one() -> None:
    rig = Rig()
    rig.serial.write(UART_FCR, 0xC1)
    rig.serial.enqueue_raw_bytes(b"x")
    rig.serial.write(UART_IER, UART_IER_RDI)
    copy = Rig(state=replace(rig.serial.state(), rx_timeout_ns=None))
    copy.clock.advance(1_000_000_000)
    assert copy.serial.read(UART_IIR) == 0xCC


def test_state_with_a_timeout_of_no_bytes_is_corrected() -> None:
    rig = Rig()
    rig.serial.write(UART_FCR, 0x01)
    rig.serial.write(UART_IER, UART_IER_RDI)
    wrong = replace(rig.serial.state(), rx_timeout_pending=True, rx_timeout_ns=5)
    copy = Rig(state=wrong)
    copy.clock.advance(10)
    assert copy.serial.read(UART_IIR) == 0xC1
