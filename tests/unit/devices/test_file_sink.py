"""Sinks of bare files, and chips that are given nothing else."""

import io
import os
import sys
import threading
from contextlib import suppress

import pytest
from support.serial_rig import CountingTrigger, StallSink

from vmm.devices import FileSink, I8042Device, LossySink, Serial, SerialMetrics
from vmm.devices.serial.reg import (
    UART_FCR,
    UART_FCR_ENABLE_FIFO,
    UART_FCR_TRIGGER_MASK,
    UART_IER,
    UART_IER_RDI,
    UART_IIR,
    UART_IIR_RX_TIMEOUT,
    UART_LSR,
    UART_LSR_THRE,
    UART_TX,
)
from vmm.devices.sink import as_sink

DEADLINE = 10.0  # seconds; for what takes some milliseconds


def test_a_sink_is_taken_as_it_is() -> None:
    sink = StallSink()
    assert as_sink(sink) is sink


def test_a_file_gets_every_byte_at_once() -> None:
    file = io.BytesIO()
    serial = Serial(CountingTrigger(), file)
    for byte in b"hi":
        serial.write(UART_TX, byte)
    assert file.getvalue() == b"hi"


def test_a_file_with_a_buffer_is_flushed() -> None:
    raw = io.BytesIO()
    sink = FileSink(io.BufferedWriter(raw))
    sink.write(b"hi")
    assert raw.getvalue() == b"hi"


class Shy(io.RawIOBase):
    """Takes two bytes at a time, and four in all."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: object) -> int | None:
        assert isinstance(data, bytes)
        if len(self.data) == 4:
            return None  # as a non-blocking descriptor
        self.data += data[:2]
        return min(len(data), 2)


def test_a_short_write_is_gone_on_with_and_what_finds_no_room_is_counted() -> None:
    file = Shy()
    sink = FileSink(file)
    assert isinstance(sink, LossySink)
    assert sink.write(b"abcdef") == 6
    assert file.data == b"abcd"
    assert sink.dropped == 2


def test_the_driver_goes_on_when_a_file_is_full() -> None:
    file, metrics = Shy(), SerialMetrics()
    serial = Serial(CountingTrigger(), file, events=metrics)
    for byte in b"abcdef":
        serial.write(UART_TX, byte)
        assert serial.read(UART_LSR) & UART_LSR_THRE
    assert (metrics.out_bytes, metrics.tx_lost_bytes) == (4, 2)


def test_a_file_whose_write_returns_nothing_has_taken_all() -> None:
    class Log:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> None:
            self.data += data

    log = Log()
    sink = FileSink(log)
    sink.write(b"abc")
    assert (log.data, sink.dropped) == (b"abc", 0)


def test_what_a_file_raises_passes_through_and_the_chip_goes_on() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as file:
        serial = Serial(CountingTrigger(), file)
        with pytest.raises(BrokenPipeError):
            serial.write(UART_TX, ord("a"))
        assert serial.read(UART_LSR) & UART_LSR_THRE
        with suppress(BrokenPipeError):
            serial.write(UART_TX, ord("b"))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (sys.stdout, r"out is a text file: its \.buffer takes bytes"),
        (None, r"out: NoneType has no write\(\)"),
    ],
)
def test_what_takes_no_bytes_is_refused(out: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Serial(CountingTrigger(), out)  # type: ignore[arg-type]


def test_without_a_clock_time_is_the_hosts() -> None:
    """A byte below the trigger level interrupts after four characters' time."""
    came = threading.Event()

    class Line:
        def trigger(self) -> None:
            came.set()

    serial = Serial(Line(), io.BytesIO())
    serial.write(UART_FCR, UART_FCR_ENABLE_FIFO | UART_FCR_TRIGGER_MASK)
    serial.write(UART_IER, UART_IER_RDI)
    serial.enqueue_raw_bytes(b"x")
    assert came.wait(DEADLINE)
    assert serial.read(UART_IIR) & 0xF == UART_IIR_RX_TIMEOUT


def test_an_i8042_needs_no_more_than_a_reset_line() -> None:
    reset = CountingTrigger()
    chip = I8042Device(reset)
    chip.write(4, 0xAE)  # enable the keyboard
    chip.send_scancodes(b"\x1c")
    assert chip.read(0) == 0x1E  # translated
    chip.write(4, 0xFE)
    assert reset.edges == 1
