"""FastPort: what a device says ahead, and a ring that never takes more than it may."""

import struct

import pytest

from vmm.devices.bus.io_manager import IoManager, IoManagerContext
from vmm.devices.device_io import DeviceIo, DeviceIoMut, Locked
from vmm.devices.fast_port import HEADER_SIZE, RING_SIZE, FastPort
from vmm.devices.resources import PioAddressRange


def start_at(port: FastPort, count: int) -> None:
    """Put head, and with it the device's view, at `count` bytes."""
    struct.pack_into("<I", port.memory, 8, count)
    port._tail = count


@pytest.fixture
def port() -> FastPort:
    return FastPort()


def test_new_port_leaves_all_to_the_device(port: FastPort) -> None:
    assert port.read() is None
    assert not port.write(0)
    assert not port.in_use


@pytest.mark.parametrize("value", [0, 1, 0xFF])
def test_answer_is_read_until_it_is_taken_back(port: FastPort, value: int) -> None:
    port.answer(value)
    assert port.read() == value
    port.answer(None)
    assert port.read() is None


def test_as_many_bytes_are_taken_as_were_accepted(port: FastPort) -> None:
    port.accept(3)
    assert [port.write(value) for value in b"abcd"] == [True, True, True, False]
    assert port.take() == b"abc"
    assert port.take() == b""
    assert not port.write(0)


def test_accepting_counts_from_what_was_taken(port: FastPort) -> None:
    port.accept(3)
    port.write(1)
    port.accept(2)
    assert port.write(2)
    assert not port.write(3)


def test_accepting_none_refuses_at_once(port: FastPort) -> None:
    port.accept(10)
    port.write(1)
    port.accept(0)
    assert not port.write(2)
    assert port.take() == b"\1"


def test_no_more_is_accepted_than_the_ring_holds(port: FastPort) -> None:
    port.accept(1 << 30)
    assert sum(port.write(at & 0xFF) for at in range(RING_SIZE + 10)) == RING_SIZE
    assert port.take() == bytes(range(256)) * (RING_SIZE // 256)


@pytest.mark.parametrize("start", [RING_SIZE - 2, (1 << 32) - 2])
def test_ring_and_counters_wrap(port: FastPort, start: int) -> None:
    start_at(port, start)
    port.accept(5)
    assert all(port.write(value) for value in b"12345")
    assert not port.write(0)
    assert port.take() == b"12345"
    assert len(port.memory) == HEADER_SIZE + RING_SIZE


def test_port_is_not_quiet_while_somebody_writes(port: FastPort) -> None:
    assert port.is_quiet()
    struct.pack_into("<I", port.memory, 12, 1)
    assert not port.is_quiet()


# On the bus


class Fast(DeviceIo):
    """Two ports, the second of which is fast; and one that it doesn't have."""

    def __init__(self) -> None:
        self.port = FastPort()

    def get_fast_ports(self) -> dict[int, FastPort]:
        return {0x501: self.port, 0x700: FastPort()}


class FastMut(DeviceIoMut):
    """The same, for one thread."""

    get_fast_ports = Fast.get_fast_ports

    def __init__(self) -> None:
        self.port = FastPort()


RANGE = [PioAddressRange(0x500, 2)]


def test_bus_tells_the_fast_ports_within_a_devices_ranges() -> None:
    bus, device = IoManager(), Fast()
    bus.register_device_io(device, RANGE)
    assert bus.fast_ports.ports == {0x501: device.port}


def test_locked_device_may_have_fast_ports() -> None:
    bus, device = IoManager(), FastMut()
    bus.register_device_io(Locked(device), RANGE)
    assert bus.fast_ports.ports == {0x501: device.port}


def test_unregistered_device_has_none() -> None:
    bus = IoManager()
    bus.register_device_io(Fast(), RANGE)
    bus.unregister_device_io(RANGE)
    assert bus.fast_ports.ports == {}


def test_every_change_says_that_the_table_is_old() -> None:
    bus = IoManager()
    first = bus.fast_ports
    bus.register_device_io(Fast(), RANGE)
    second = bus.fast_ports
    assert [first.replaced[0], second.replaced[0]] == [1, 0]
    with IoManagerContext(bus).transaction() as tx:
        IoManagerContext(bus).unregister_device_io(tx, RANGE)
        assert second.replaced == b"\0"
    assert [second.replaced[0], bus.fast_ports.replaced[0]] == [1, 0]


def test_clone_has_its_own_table() -> None:
    bus = IoManager()
    bus.register_device_io(Fast(), RANGE)
    clone = bus.clone()
    clone.unregister_device_io(RANGE)
    assert bus.fast_ports.replaced == b"\0"
    assert len(bus.fast_ports.ports) == 1
