"""Serial: what it lends to a run loop, and when it takes it back."""

import pytest
from support.serial_rig import FastRig, Rig

from vmm.devices.fast_port import FastPort
from vmm.devices.serial.reg import (
    UART_IER,
    UART_IER_THRI,
    UART_LCR,
    UART_LCR_DLAB,
    UART_LSR,
    UART_MCR,
    UART_MCR_LOOP,
    UART_TX,
)
from vmm.devices.serial.transmitter import COLLECT_NS

LSR_IDLE = 0x60


@pytest.fixture
def rig() -> FastRig:
    return FastRig()


def thr(rig: Rig) -> FastPort:
    return rig.serial.fast_ports[UART_TX]


def lsr(rig: Rig) -> FastPort:
    return rig.serial.fast_ports[UART_LSR]


# LSR


def test_lsr_is_told_ahead(rig: FastRig) -> None:
    assert lsr(rig).read() == LSR_IDLE
    rig.serial.enqueue_raw_bytes(b"x")
    assert lsr(rig).read() == LSR_IDLE | 1
    rig.serial.read(0)
    assert lsr(rig).read() == LSR_IDLE


def test_lsr_with_an_error_that_reading_clears_is_not_told(rig: FastRig) -> None:
    rig.serial.inject_overrun()
    assert lsr(rig).read() is None
    rig.serial.read(UART_LSR)
    assert lsr(rig).read() == LSR_IDLE


def test_lsr_says_that_the_sink_is_full() -> None:
    rig = FastRig(room=0)
    rig.write(UART_TX, 1)
    assert lsr(rig).read() == 0
    rig.sink.make_room(1)
    assert lsr(rig).read() == LSR_IDLE


def test_lsr_is_told_after_a_reset(rig: FastRig) -> None:
    rig.serial.inject_overrun()
    rig.serial.reset()
    assert lsr(rig).read() == LSR_IDLE


# THR


def test_first_byte_goes_through_the_device_and_lends_the_ring(rig: FastRig) -> None:
    assert not thr(rig).write(0)
    rig.serial.write(UART_TX, ord("a"))
    assert rig.sink.data == b"a"
    assert thr(rig).write(ord("b"))
    assert rig.sink.data == b"a"


def test_nothing_is_lent_where_no_run_loop_serves() -> None:
    rig = Rig()
    rig.serial.write(UART_TX, ord("a"))
    assert not thr(rig).write(ord("b"))
    assert rig.clock._timers == []


def test_ring_is_collected_in_time(rig: FastRig) -> None:
    for value in b"abc":
        rig.write(UART_TX, value)
    assert rig.sink.data == b"a"
    rig.clock.advance(COLLECT_NS)
    assert rig.sink.data == b"abc"


def test_ring_goes_on_while_the_guest_sends(rig: FastRig) -> None:
    for pair in (b"ab", b"cd", b"ef", b"gh"):
        for value in pair:
            rig.write(UART_TX, value)
        rig.clock.advance(COLLECT_NS)
    assert rig.sink.data == b"abcdefgh"
    assert rig.served == 7


def test_ring_is_taken_back_from_a_guest_that_is_silent(rig: FastRig) -> None:
    rig.write(UART_TX, ord("a"))
    rig.clock.advance(2 * COLLECT_NS)
    assert not thr(rig).write(ord("b"))
    assert rig.clock._timers == []


def test_ring_is_kept_while_a_writer_is_in_it(rig: FastRig) -> None:
    rig.write(UART_TX, ord("a"))
    thr(rig).memory[12] = 1
    rig.clock.advance(COLLECT_NS)
    thr(rig).memory[12] = 0
    assert len(rig.clock._timers) == 1


def test_bytes_keep_their_order_past_a_byte_through_the_device(rig: FastRig) -> None:
    for value in b"ab":
        rig.write(UART_TX, value)
    rig.serial.write(UART_TX, ord("c"))
    rig.write(UART_TX, ord("d"))
    rig.serial.flush()
    assert rig.sink.data == b"abcd"


@pytest.mark.parametrize(
    ("register", "value"),
    [
        (UART_IER, UART_IER_THRI),
        (UART_LCR, UART_LCR_DLAB),
        (UART_MCR, UART_MCR_LOOP),
    ],
)
def test_nothing_is_lent_while_thr_does_more_than_send(
    rig: FastRig, register: int, value: int
) -> None:
    rig.write(UART_TX, ord("a"))
    rig.write(UART_TX, ord("b"))
    rig.write(register, value)
    assert rig.sink.data == b"ab"
    assert not thr(rig).write(ord("c"))
    rig.write(register, 0)
    rig.write(UART_TX, ord("d"))
    assert thr(rig).write(ord("e"))


def test_no_more_is_lent_than_the_sink_takes() -> None:
    rig = FastRig(room=3)
    for value in b"abcde":
        rig.write(UART_TX, value)
    assert rig.served == 2
    assert rig.sink.data == b"abc"
    assert lsr(rig).read() == 0
    rig.sink.make_room(2)
    assert rig.metrics.tx_lost_bytes == 1  # without FIFOs, THR is one byte


def test_bytes_beyond_a_promise_wait_in_the_fifo() -> None:
    rig = FastRig(room=3)
    rig.write(UART_TX, ord("a"))
    rig.write(UART_TX, ord("b"))
    rig.write(UART_TX, ord("c"))
    rig.sink.left = 1  # against what it has said
    rig.clock.advance(COLLECT_NS)
    assert rig.sink.data == b"ab"
    assert lsr(rig).read() == 0
    rig.sink.make_room(5)
    assert rig.sink.data == b"abc"
    assert lsr(rig).read() == LSR_IDLE


def test_reset_sends_what_was_collected(rig: FastRig) -> None:
    for value in b"abc":
        rig.write(UART_TX, value)
    rig.serial.reset()
    assert rig.sink.data == b"abc"
    assert rig.metrics.tx_lost_bytes == 0


def test_events_are_told_of_every_byte_once_it_is_sent(rig: FastRig) -> None:
    for value in b"abc":
        rig.write(UART_TX, value)
    assert rig.metrics.out_bytes == 1
    rig.serial.flush()
    assert rig.metrics.out_bytes == 3
