"""Serial: THR, the TX FIFO behind a sink that may have no room, loopback."""

import pytest
from support.serial_rig import CountingTrigger, Rig, StallSink

from vmm.devices.clock import VirtualClock
from vmm.devices.errors import TriggerError
from vmm.devices.serial.events import SerialEvents, SerialMetrics
from vmm.devices.serial.receiver import FIFO_SIZE
from vmm.devices.serial.reg import (
    UART_FCR,
    UART_FCR_CLEAR_XMIT,
    UART_FCR_ENABLE_FIFO,
    UART_IER,
    UART_IER_RDI,
    UART_IER_THRI,
    UART_IIR,
    UART_IIR_NO_INT,
    UART_IIR_THRI,
    UART_LCR,
    UART_LCR_DLAB,
    UART_LCR_SBC,
    UART_LSR,
    UART_LSR_BI,
    UART_LSR_DR,
    UART_LSR_TEMT,
    UART_LSR_THRE,
    UART_MCR,
    UART_MCR_LOOP,
    UART_RX,
    UART_TX,
)
from vmm.devices.serial.uart import Serial
from vmm.devices.sink import BufferedSink

IDLE = UART_LSR_THRE | UART_LSR_TEMT


@pytest.fixture
def rig() -> Rig:
    """With FIFOs on."""
    rig = Rig()
    rig.serial.write(UART_FCR, UART_FCR_ENABLE_FIFO)
    return rig


@pytest.fixture
def stalled() -> Rig:
    """With FIFOs on, and a sink without room."""
    rig = Rig(room=0)
    rig.serial.write(UART_FCR, UART_FCR_ENABLE_FIFO)
    return rig


def send(rig: Rig, data: bytes) -> None:
    for byte in data:
        rig.serial.write(UART_TX, byte)


def iir_id(rig: Rig) -> int:
    return rig.serial.read(UART_IIR) & 0x0F


def test_thr_goes_to_the_sink_at_once(rig: Rig) -> None:
    send(rig, b"hello")
    assert rig.sink.data == b"hello"
    assert rig.serial.read(UART_LSR) == IDLE
    assert rig.metrics.out_bytes == 5


def test_thre_and_temt_are_clear_while_the_sink_has_no_room(stalled: Rig) -> None:
    send(stalled, b"x")
    assert stalled.serial.read(UART_LSR) & IDLE == 0


def test_thre_returns_only_when_nothing_waits(stalled: Rig) -> None:
    send(stalled, b"xyz")
    stalled.sink.make_room(2)
    assert stalled.serial.read(UART_LSR) & IDLE == 0
    stalled.sink.make_room(1)
    assert stalled.serial.read(UART_LSR) & IDLE == IDLE
    assert stalled.sink.data == b"xyz"


def test_tx_fifo_holds_64_bytes_in_order(stalled: Rig) -> None:
    data = bytes(range(FIFO_SIZE))
    send(stalled, data)
    stalled.sink.make_room(1000)
    assert stalled.sink.data == data
    assert stalled.metrics.tx_lost_bytes == 0


def test_byte_forced_into_a_full_tx_fifo_is_dropped_and_told(stalled: Rig) -> None:
    send(stalled, bytes(FIFO_SIZE) + b"!!")
    assert stalled.metrics.tx_lost_bytes == 2
    stalled.sink.make_room(1000)
    assert stalled.sink.data == bytes(FIFO_SIZE)


def test_16450_mode_holds_one_byte() -> None:
    rig = Rig(room=0)
    send(rig, b"ab")
    rig.sink.make_room(10)
    assert rig.sink.data == b"a"
    assert rig.metrics.tx_lost_bytes == 1


def test_byte_behind_waiting_ones_does_not_overtake(stalled: Rig) -> None:
    send(stalled, b"a")
    stalled.sink.left = 10  # but the sink has not said so yet
    send(stalled, b"b")
    assert stalled.sink.data == b""
    stalled.sink.make_room(0)
    assert stalled.sink.data == b"ab"


def test_on_room_with_nothing_waiting_changes_nothing(rig: Rig) -> None:
    assert rig.sink.on_room is not None
    rig.sink.on_room()
    assert rig.trigger.edges == 0
    assert rig.serial.read(UART_LSR) == IDLE


def test_fcr_clear_xmit_drops_what_waits_and_returns_thre(stalled: Rig) -> None:
    stalled.serial.write(UART_IER, UART_IER_THRI)
    stalled.serial.read(UART_IIR)
    send(stalled, b"abc")
    edges = stalled.trigger.edges
    stalled.serial.write(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_CLEAR_XMIT)
    assert stalled.metrics.tx_lost_bytes == 3
    assert stalled.serial.read(UART_LSR) & IDLE == IDLE
    assert stalled.trigger.edges == edges + 1
    stalled.sink.make_room(10)
    assert stalled.sink.data == b""


def test_fcr_mode_change_drops_what_waits(stalled: Rig) -> None:
    send(stalled, b"abc")
    stalled.serial.write(UART_FCR, 0)
    assert stalled.metrics.tx_lost_bytes == 3


def test_reset_tells_of_the_bytes_that_it_loses(stalled: Rig) -> None:
    send(stalled, b"abc")
    stalled.serial.reset()
    assert stalled.metrics.tx_lost_bytes == 3
    assert stalled.serial.read(UART_LSR) == IDLE


# The THRE interrupt


def test_thre_interrupt_when_it_is_enabled_with_thr_empty(rig: Rig) -> None:
    rig.serial.write(UART_IER, UART_IER_THRI)
    assert rig.trigger.edges == 1
    assert iir_id(rig) == UART_IIR_THRI


def test_thre_interrupt_ends_when_iir_reported_it(rig: Rig) -> None:
    rig.serial.write(UART_IER, UART_IER_THRI)
    rig.serial.read(UART_IIR)
    assert iir_id(rig) == UART_IIR_NO_INT


def test_thre_interrupt_stays_when_iir_reported_another(rig: Rig) -> None:
    rig.serial.write(UART_IER, UART_IER_THRI | UART_IER_RDI)
    rig.serial.enqueue_raw_bytes(b"x")
    assert iir_id(rig) == 0x04
    rig.serial.read(UART_RX)
    assert iir_id(rig) == UART_IIR_THRI


def test_thre_interrupt_is_not_raised_by_enabling_what_is_enabled(rig: Rig) -> None:
    rig.serial.write(UART_IER, UART_IER_THRI)
    rig.serial.read(UART_IIR)
    rig.serial.write(UART_IER, UART_IER_THRI | UART_IER_RDI)
    assert iir_id(rig) == UART_IIR_NO_INT


def test_thre_interrupt_needs_thr_empty_when_it_is_enabled(stalled: Rig) -> None:
    send(stalled, b"x")
    stalled.serial.write(UART_IER, UART_IER_THRI)
    assert iir_id(stalled) == UART_IIR_NO_INT


def test_thre_interrupt_once_per_load(rig: Rig) -> None:
    rig.serial.write(UART_IER, UART_IER_THRI)
    rig.serial.read(UART_IIR)
    edges = rig.trigger.edges
    send(rig, bytes(16))
    assert rig.trigger.edges == edges + 1
    assert iir_id(rig) == UART_IIR_THRI


def test_thre_interrupt_ends_when_a_byte_has_to_wait(stalled: Rig) -> None:
    stalled.serial.write(UART_IER, UART_IER_THRI)
    send(stalled, b"x")
    assert iir_id(stalled) == UART_IIR_NO_INT


def test_thre_interrupt_when_the_sink_has_drained_all(stalled: Rig) -> None:
    stalled.serial.write(UART_IER, UART_IER_THRI)
    stalled.serial.read(UART_IIR)
    send(stalled, bytes(16))
    edges = stalled.trigger.edges
    stalled.sink.make_room(15)
    assert stalled.trigger.edges == edges
    stalled.sink.make_room(1)
    assert stalled.trigger.edges == edges + 1
    assert iir_id(stalled) == UART_IIR_THRI


def test_no_thre_interrupt_without_ier_thri(stalled: Rig) -> None:
    send(stalled, b"x")
    stalled.sink.make_room(1)
    assert stalled.trigger.edges == 0


# Loopback and break


def test_loopback_feeds_thr_to_rbr_and_not_to_the_sink(rig: Rig) -> None:
    rig.serial.write(UART_MCR, UART_MCR_LOOP)
    send(rig, b"ab")
    assert [rig.serial.read(UART_RX) for _ in range(2)] == [ord("a"), ord("b")]
    assert rig.sink.data == b""


def test_loopback_keeps_the_thre_interrupt_going(rig: Rig) -> None:
    rig.serial.write(UART_IER, UART_IER_THRI)
    rig.serial.read(UART_IIR)
    rig.serial.write(UART_MCR, UART_MCR_LOOP)
    send(rig, b"a")
    assert iir_id(rig) == UART_IIR_THRI


def test_loopback_leaves_to_the_sink_what_waited_for_it(stalled: Rig) -> None:
    send(stalled, b"a")
    stalled.serial.write(UART_MCR, UART_MCR_LOOP)
    send(stalled, b"b")
    assert stalled.serial.read(UART_LSR) & IDLE == 0
    stalled.sink.make_room(10)
    assert stalled.sink.data == b"a"
    assert stalled.serial.read(UART_RX) == ord("b")


def test_lcr_break_in_loopback_receives_one_break(rig: Rig) -> None:
    rig.serial.write(UART_MCR, UART_MCR_LOOP)
    rig.serial.write(UART_LCR, 0x03 | UART_LCR_SBC)
    rig.serial.write(UART_LCR, 0x03 | UART_LCR_SBC)
    assert rig.serial.read(UART_LSR) & (UART_LSR_BI | UART_LSR_DR) == 0x11
    assert rig.serial.read(UART_RX) == 0
    assert not rig.serial.read(UART_LSR) & UART_LSR_DR


def test_lcr_break_is_received_when_loopback_begins(rig: Rig) -> None:
    rig.serial.write(UART_LCR, 0x03 | UART_LCR_SBC)
    assert not rig.serial.read(UART_LSR) & UART_LSR_DR
    rig.serial.write(UART_MCR, UART_MCR_LOOP)
    assert rig.serial.read(UART_LSR) & UART_LSR_BI


def test_lcr_break_lets_bytes_through_to_the_sink(rig: Rig) -> None:
    rig.serial.write(UART_LCR, 0x03 | UART_LCR_SBC)
    send(rig, b"x")
    assert rig.sink.data == b"x"


def test_thr_works_again_after_dlab_and_loopback(rig: Rig) -> None:
    rig.serial.write(UART_LCR, UART_LCR_DLAB)
    rig.serial.write(UART_LCR, 0x03)
    rig.serial.write(UART_MCR, UART_MCR_LOOP)
    rig.serial.write(UART_MCR, 0)
    send(rig, b"x")
    assert rig.sink.data == b"x"


# Events and sinks


def test_bytes_that_a_dropping_sink_drops_are_told_as_lost() -> None:
    metrics = SerialMetrics()
    sink = BufferedSink(capacity=2, policy="drop")
    serial = Serial(CountingTrigger(), sink, clock=VirtualClock(), events=metrics)
    for _ in range(5):
        serial.write(UART_TX, 0)
    assert (metrics.out_bytes, metrics.tx_lost_bytes) == (2, 3)
    assert serial.read(UART_LSR) == IDLE


def test_bytes_drained_into_a_dropping_sink_are_told_as_lost() -> None:
    metrics = SerialMetrics()
    sink = BufferedSink(capacity=1, total_limit=2)
    serial = Serial(CountingTrigger(), sink, clock=VirtualClock(), events=metrics)
    serial.write(UART_FCR, UART_FCR_ENABLE_FIFO)
    for _ in range(5):
        serial.write(UART_TX, 0)
    for _ in range(2):
        sink.consume(len(sink))
    assert (metrics.out_bytes, metrics.tx_lost_bytes) == (2, 3)


def test_works_without_events() -> None:
    sink = StallSink(room=1)
    serial = Serial(CountingTrigger(), sink, clock=VirtualClock())
    serial.write(UART_FCR, UART_FCR_ENABLE_FIFO)
    for _ in range(70):
        serial.write(UART_TX, ord("x"))
    sink.make_room(100)
    serial.enqueue_raw_bytes(b"ab")
    serial.read(UART_RX)
    serial.write(UART_MCR, UART_MCR_LOOP)
    serial.write(UART_MCR, 0)
    serial.write(UART_FCR, 0)
    serial.reset()
    assert len(sink.data) == 65
    assert serial.events() is None


def test_events_that_do_nothing_for_tx_are_not_called_for_it() -> None:
    events = SerialEvents()
    serial = Serial(CountingTrigger(), StallSink(), clock=VirtualClock(), events=events)
    events.out_byte = None  # type: ignore[method-assign, assignment]
    serial.write(UART_TX, ord("x"))
    assert serial.events() is events


def test_default_events_do_nothing() -> None:
    events = SerialEvents()
    events.buffer_read()
    events.out_byte()
    events.tx_lost_byte()
    events.in_buffer_empty()
    assert vars(events) == {}


class BrokenTrigger:
    """Always fails."""

    def trigger(self) -> None:
        raise TriggerError("no irqfd")


def test_trigger_error_comes_out_after_the_access_took_effect() -> None:
    serial = Serial(BrokenTrigger(), StallSink(), clock=VirtualClock())
    with pytest.raises(TriggerError):
        serial.write(UART_IER, UART_IER_THRI | UART_IER_RDI)
    assert serial.read(UART_IER) == UART_IER_THRI | UART_IER_RDI
    with pytest.raises(TriggerError):
        serial.enqueue_raw_bytes(b"ab")
    assert serial.read(UART_RX) == ord("a")
