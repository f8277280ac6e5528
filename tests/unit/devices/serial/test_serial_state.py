"""What Serial.state() has in it, and whom restoring tells."""

from dataclasses import asdict
from typing import Any

import pytest
from support.serial_rig import FailingTrigger, Rig, StallSink

from vmm.devices.errors import InvalidState, TriggerError
from vmm.devices.serial.events import SerialMetrics
from vmm.devices.serial.reg import (
    UART_FCR,
    UART_IER,
    UART_LCR,
    UART_LSR,
    UART_MSR,
    UART_RX,
    UART_TX,
)
from vmm.devices.serial.state import SerialState
from vmm.devices.serial.uart import Serial

VM_SUPERIO_FIELDS: dict[str, Any] = {
    "baud_divisor_low": 0x0C,
    "baud_divisor_high": 0,
    "interrupt_enable": 0x01,
    "interrupt_identification": 0x04,
    "line_control": 0x03,
    "line_status": 0x61,
    "modem_control": 0x08,
    "modem_status": 0xB0,
    "scratch": 0x7E,
    "in_buffer": (104, 105),
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


def test_restored_rx_timeout_comes_when_it_was_due(busy: Rig) -> None:
    left = busy.serial.state().rx_timeout_ns
    assert left is not None
    copy = busy.clone()
    copy.clock.advance(left - 1)
    assert not copy.serial.state().rx_timeout_pending
    copy.clock.advance(1)
    assert copy.serial.state().rx_timeout_pending


def test_restored_tx_bytes_go_out_when_the_sink_has_room(busy: Rig) -> None:
    copy = busy.clone()
    copy.sink.make_room(1)
    assert copy.sink.data == b"t"


def test_restored_tx_bytes_go_out_at_once_to_a_sink_with_room(busy: Rig) -> None:
    copy = Rig(state=busy.serial.state())
    assert copy.sink.data == b"t"
    assert copy.serial.read(UART_LSR) & 0x60 == 0x60


def test_state_of_vm_superio_is_accepted() -> None:
    rig = Rig(state=SerialState(**VM_SUPERIO_FIELDS))
    assert rig.trigger.edges == 1
    assert [rig.serial.read(UART_RX) for _ in range(2)] == [104, 105]
    assert rig.serial.read(UART_MSR) == 0xB0


def test_restoring_loses_what_the_device_had_before() -> None:
    used, fresh = Rig(room=0), Rig(room=0)
    used.serial.write(UART_TX, ord("t"))
    used.serial.write(UART_FCR, 0x81)
    used.serial.enqueue_raw_bytes(b"ab")
    used.serial.restore(fresh.serial.state())
    assert used.serial.state() == fresh.serial.state()
    assert used.metrics.tx_lost_bytes == 1
    used.sink.make_room(1)
    assert used.sink.data == b""


def test_restoring_tells_the_host_that_input_may_come() -> None:
    rig = Rig()
    rig.serial.enqueue_raw_bytes(bytes(64))
    rig.serial.restore(Rig().serial.state())
    assert rig.metrics.in_buffer_empties == 1
    assert rig.serial.enqueue_raw_bytes(b"x") == 1


def test_what_is_no_state_makes_no_serial_and_leaves_the_sink_alone() -> None:
    rig = Rig()
    on_room = rig.sink.on_room
    wrong: Any = {"scratch": 1}
    with pytest.raises(InvalidState, match="dict is no SerialState"):
        Serial.from_state(wrong, rig.trigger, rig.sink, clock=rig.clock)
    assert rig.sink.on_room == on_room


def test_restoring_tells_so_though_the_interrupt_can_not_be_delivered(
    busy: Rig,
) -> None:
    """Or input that waits for room would wait for ever."""
    metrics = SerialMetrics()
    copy = Serial(FailingTrigger(), StallSink(), clock=busy.clock, events=metrics)
    with pytest.raises(TriggerError):
        copy.restore(busy.serial.state())
    assert metrics.in_buffer_empties == 1
