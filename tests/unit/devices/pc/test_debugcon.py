"""Debugcon: what is written to the port goes to the sink; reading tells it is there."""

import pytest

from vmm.devices.buffered_sink import BufferedSink
from vmm.devices.pc.debugcon import Debugcon
from vmm.devices.resources import PioAddressConstraint


@pytest.fixture
def sink() -> BufferedSink:
    return BufferedSink(4, "drop")


@pytest.fixture
def port(sink: BufferedSink) -> Debugcon:
    return Debugcon(sink)


def write(port: Debugcon, data: bytes) -> None:
    for value in data:
        port.pio_write(0xE9, 0, memoryview(bytes([value])))


def test_it_is_at_port_e9(port: Debugcon) -> None:
    assert port.get_resource_constraints() == [PioAddressConstraint.at(0xE9, 1)]


def test_what_is_written_goes_to_the_sink(port: Debugcon, sink: BufferedSink) -> None:
    write(port, b"abc")
    assert sink.peek() == b"abc"


def test_what_finds_no_room_is_dropped_and_counted(
    port: Debugcon, sink: BufferedSink
) -> None:
    write(port, b"abcdef")
    assert (sink.peek(), sink.dropped) == (b"abcd", 2)


def test_reading_gives_the_ports_number_by_run_loop_and_by_device(
    port: Debugcon,
) -> None:
    data = bytearray(1)
    port.pio_read(0xE9, 0, memoryview(data))
    assert data[0] == port.get_fast_ports()[0xE9].read() == 0xE9


def test_writes_may_be_collected_but_not_kept(port: Debugcon) -> None:
    fast = port.get_fast_ports()[0xE9]
    assert fast.posted
    assert not fast.write(0x41)  # they come to the device in their order
