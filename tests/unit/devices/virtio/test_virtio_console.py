"""VirtioConsole: ports, their messages, and the size of a terminal."""

from collections.abc import Sequence
from functools import partial
from struct import pack, unpack

import pytest
from support.serial_rig import StallSink
from support.virtio_device_rig import DeviceRig
from support.virtio_driver import Request

from vmm.devices.buffered_sink import BufferedSink
from vmm.devices.errors import InvalidState
from vmm.devices.virtio.console import (
    NAME_MAX,
    PORTS_MAX,
    WRITE_MAX,
    ConsolePort,
    ConsoleState,
    PortState,
    VirtioConsole,
)

IN, OUT, CONTROL_IN, CONTROL_OUT = 0, 1, 2, 3
SIZE, MULTIPORT = 1, 2
READY, ADD, PORT_READY, CONSOLE, RESIZE, OPEN, NAME = 0, 1, 3, 4, 5, 6, 7


class ConsoleRig(DeviceRig):
    """A started one whose ports are `names`; hvc0 alone has none."""

    device: VirtioConsole

    def __init__(self, names: Sequence[str] = ("",), room: int = 1 << 30) -> None:
        self.sinks = [StallSink(room) for _ in names]
        self.rooms: list[str] = []
        self.waiting: list[Request] = []
        self.ports = [
            ConsolePort(
                sink,
                name,
                is_console=not name,
                on_room=partial(self.rooms.append, name),
            )
            for sink, name in zip(self.sinks, names, strict=True)
        ]
        super().__init__(VirtioConsole(self.ports))
        self.start(self.device.features)

    def taken(self, port: int = 0) -> bytes:
        return bytes(self.sinks[port].data)

    def say(self, port: int, event: int, value: int = 1) -> None:
        assert self.send(CONTROL_OUT, pack("<IHH", port, event, value)).is_done

    def hear(self, count: int = 1, room: int = 64) -> list[Request]:
        """Give the device so many buffers for messages."""
        requests = [self.drivers[CONTROL_IN].send([], [room]) for _ in range(count)]
        self.waiting += requests
        self.kick(CONTROL_IN)
        return requests

    def messages(self) -> list[tuple[int, int, int, bytes]]:
        """All that have come: port, event, value and what follows."""
        self.hear(self.drivers[CONTROL_IN].free_slots)
        done = [request.data for request in self.waiting if request.length]
        self.waiting = [request for request in self.waiting if not request.is_done]
        return [(*unpack("<IHH", data[:8]), data[8:]) for data in done]

    def open_all(self) -> None:
        """As Linux does."""
        self.say(0, READY)
        for port in range(len(self.ports)):
            self.say(port, PORT_READY)
            self.say(port, OPEN)


# One port


def test_one_port_without_a_name_has_two_queues_and_no_messages() -> None:
    rig = ConsoleRig()
    assert len(rig.device.queues) == 2
    assert not rig.device.features & MULTIPORT


def test_what_the_guest_writes_goes_to_the_sink_and_is_used_at_once() -> None:
    rig = ConsoleRig()
    assert rig.send(OUT, b"hel", b"lo").is_done
    assert rig.taken() == b"hello"


def test_what_is_typed_fills_the_guests_buffers() -> None:
    rig = ConsoleRig()
    requests = [rig.send(IN, room=4) for _ in range(3)]
    assert rig.ports[0].enqueue_raw_bytes(b"hello") == 5
    rig.collect()
    assert [request.data for request in requests] == [b"hell", b"o", b""]
    assert rig.interrupts == [IN]


def test_typing_stops_where_the_guests_buffers_end_and_room_is_told() -> None:
    rig = ConsoleRig()
    rig.send(IN, room=4)
    rig.rooms.clear()
    assert rig.ports[0].enqueue_raw_bytes(b"hello") == 4
    assert rig.ports[0].enqueue_raw_bytes(b"o") == 0
    assert rig.rooms == []
    rig.send(IN, room=4)
    assert rig.rooms == [""]
    assert rig.ports[0].enqueue_raw_bytes(b"o") == 1


def test_nothing_is_typed_before_the_driver_is_ready_or_after_a_reset() -> None:
    rig = ConsoleRig()
    rig.send(IN, room=4)
    rig.device.stop()
    assert not rig.ports[0].listens
    assert rig.ports[0].enqueue_raw_bytes(b"x") == 0
    assert ConsolePort(StallSink(0)).enqueue_raw_bytes(b"x") == 0


def test_case_7_buffers_of_no_size_take_nothing_and_come_back() -> None:
    rig = ConsoleRig()
    empty = rig.drivers[IN].send([b"to be read"], [])
    full = rig.send(IN, room=1)
    assert rig.ports[0].enqueue_raw_bytes(b"x") == 1
    rig.collect()
    assert (empty.is_done, empty.length, full.data) == (True, 0, b"x")


def test_case_20_a_ring_full_of_empty_buffers_is_looked_at_again_later() -> None:
    rig = ConsoleRig()
    for _ in range(16):
        rig.drivers[IN].send([b"x"], [])
    assert rig.ports[0].enqueue_raw_bytes(b"x") == 0
    assert rig.again == [rig.device.queues[IN]]


def test_a_break_is_what_linux_takes_for_one() -> None:
    rig = ConsoleRig()
    assert not rig.ports[0].inject_break()
    request = rig.send(IN, room=4)
    assert rig.ports[0].inject_break()
    rig.collect()
    assert request.data == b"\x0f"


# A sink without room


def test_case_56_what_finds_no_room_waits_here_and_its_buffer_is_used() -> None:
    rig = ConsoleRig(room=2)
    assert rig.send(OUT, b"hello").is_done
    assert rig.taken() == b"he"
    later = rig.send(OUT, b", guest")
    assert not later.is_done
    rig.sinks[0].make_room(100)
    rig.collect()
    assert later.is_done
    assert rig.taken() == b"hello, guest"


def test_case_56_hours_without_a_reader_take_no_memory() -> None:
    rig = ConsoleRig(room=0)
    requests = [rig.drivers[OUT].send([bytes(1000)]) for _ in range(16)]
    for _ in range(1000):
        rig.kick(OUT)
    assert [request.is_done for request in requests] == [True] + [False] * 15
    assert len(rig.ports[0].rest) == 1000


def test_case_56_a_sink_that_drops_never_keeps_the_guest_waiting() -> None:
    sink = BufferedSink(10, policy="drop")
    rig = DeviceRig(VirtioConsole([ConsolePort(sink)]))
    rig.start()
    for _ in range(100):
        assert rig.send(OUT, bytes(1000)).is_done
    assert (len(sink), sink.dropped) == (10, 99_990)


def test_case_56_a_huge_buffer_is_cut_off() -> None:
    rig = ConsoleRig(room=0)
    # The same RAM many times, as cheap for a guest as 4 GiB.
    request = rig.drivers[OUT].offer([(0, 0x20000, False)] * 12)
    rig.kick(OUT)
    assert request.is_done
    assert len(rig.ports[0].rest) == WRITE_MAX


def test_a_reset_loses_nothing_of_what_was_written() -> None:
    rig = ConsoleRig(room=2)
    rig.send(OUT, b"hello")
    rig.device.stop()
    rig.sinks[0].make_room(100)
    assert rig.taken() == b"hello"


def test_case_23_what_waits_at_a_reset_is_not_read_later() -> None:
    rig = ConsoleRig(room=0)
    rig.send(OUT, b"a")
    rig.drivers[OUT].send([b"b"])
    rig.device.stop()
    rig.sinks[0].make_room(100)
    assert rig.taken() == b"a"


# Its configuration space


def test_a_new_size_is_told_once_and_read_as_columns_and_rows() -> None:
    rig = ConsoleRig()
    rig.device.resize(132, 50)
    rig.device.resize(132, 50)
    assert rig.interrupts == ["config"]
    assert rig.device.config() == pack("<HHII", 132, 50, 1, 0)


@pytest.mark.parametrize("size", [(-1, 24), (80, 1 << 16)])
def test_a_size_that_can_not_be_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"each is 0\.\.65535"):
        ConsoleRig().device.resize(*size)


def test_case_57_a_size_before_the_driver_is_ready_is_kept() -> None:
    rig = ConsoleRig()
    rig.device.stop()
    rig.device.resize(132, 50)
    assert rig.interrupts == []
    assert rig.device.config()[:4] == pack("<HH", 132, 50)


def test_case_57_it_is_told_when_the_driver_shows_that_it_has_a_port() -> None:
    rig = ConsoleRig()
    rig.device.stop()
    rig.device.resize(132, 50)
    rig.start()
    assert rig.interrupts == []  # case 30
    for _ in range(2):
        rig.send(IN, room=4)
        rig.send(OUT, b"hello")
    assert rig.interrupts.count("config") == 2
    rig.ports[0].enqueue_raw_bytes(b"x")
    rig.ports[0].enqueue_raw_bytes(b"y")
    assert rig.interrupts.count("config") == 3


def test_case_57_a_size_that_comes_while_a_port_is_made_is_told_again() -> None:
    rig = ConsoleRig()
    rig.device.resize(132, 50)
    rig.send(OUT, b"hello")
    rig.send(OUT, b"hello")
    assert rig.interrupts.count("config") == 2


def test_no_size_is_told_where_there_is_none() -> None:
    rig = ConsoleRig()
    rig.send(IN, room=4)
    rig.send(OUT, b"hello")
    rig.ports[0].enqueue_raw_bytes(b"x")
    assert "config" not in rig.interrupts


def test_emerg_wr_prints_a_character_even_without_a_driver() -> None:
    rig = ConsoleRig()
    rig.device.stop()
    rig.device.write_config(8, b"x\0\0\0")
    rig.device.write_config(8, b"y")
    for offset in (0, 4, 9):
        rig.device.write_config(offset, b"z")
    assert rig.taken() == b"xy"


def test_emerg_wr_without_a_reader_is_bounded() -> None:
    rig = ConsoleRig(room=0)
    rig.ports[0].rest = bytes(WRITE_MAX)
    rig.device.write_config(8, b"x\0\0\0")
    assert len(rig.ports[0].rest) == WRITE_MAX


# Several ports


def test_queues_of_several_ports_are_where_linux_looks() -> None:
    rig = ConsoleRig(["a", "b", "c"])
    rig.open_all()
    assert len(rig.device.queues) == 8
    for port, queue in ((0, 1), (1, 5), (2, 7)):
        rig.send(queue, b"to %d" % port)
        assert rig.taken(port) == b"to %d" % port


def test_a_driver_hears_of_ports_and_then_of_what_they_are() -> None:
    rig = ConsoleRig(["", "log"])
    rig.device.resize(80, 24)
    rig.say(0, READY)
    assert rig.messages() == [(0, ADD, 1, b""), (1, ADD, 1, b"")]
    rig.say(0, PORT_READY)
    size = pack("<HH", 80, 24)
    assert rig.messages() == [
        (0, CONSOLE, 1, b""),
        (0, RESIZE, 1, size),
        (0, OPEN, 1, b""),
    ]
    rig.say(1, PORT_READY)
    assert rig.messages() == [(1, NAME, 1, b"log"), (1, OPEN, 1, b"")]


def test_a_port_takes_input_once_the_guest_has_opened_it() -> None:
    rig = ConsoleRig(["a", "b"])
    rig.say(0, READY)
    rig.say(1, PORT_READY)
    request = rig.send(4, room=4)
    rig.rooms.clear()
    assert rig.ports[1].enqueue_raw_bytes(b"x") == 0
    rig.say(1, OPEN)
    assert rig.rooms == ["b"]
    assert rig.ports[1].enqueue_raw_bytes(b"x") == 1
    rig.collect()
    assert request.data == b"x"
    rig.say(1, OPEN, 0)
    assert not rig.ports[1].listens


def test_a_driver_that_takes_no_messages_has_the_first_port() -> None:
    rig = ConsoleRig(["", "log"])
    rig.start(0)
    rig.send(OUT, b"hello")
    rig.send(IN, room=4)
    assert rig.ports[0].enqueue_raw_bytes(b"x") == 1
    assert not rig.send(CONTROL_OUT, pack("<IHH", 0, READY, 1)).is_done
    assert rig.taken() == b"hello"


def test_case_55_messages_of_ports_that_are_not_there_are_ignored() -> None:
    rig = ConsoleRig(["a"])
    for port in (1, 31, 0xFFFF_FFFF):
        rig.say(port, PORT_READY)
        rig.say(port, OPEN)
    assert rig.messages() == []


@pytest.mark.parametrize("size", [1, 7])
def test_case_55_a_message_that_is_too_short_is_ignored(size: int) -> None:
    rig = ConsoleRig(["a"])
    assert rig.send(CONTROL_OUT, pack("<IHH", 0, READY, 1)[:size]).is_done
    assert rig.messages() == []


def test_case_55_what_no_event_is_and_values_of_failures_are_ignored() -> None:
    rig = ConsoleRig(["a"])
    rig.say(0, READY, 0)
    rig.say(0, PORT_READY, 0)
    rig.say(0, 99)
    assert rig.messages() == []


def test_case_55_a_flood_of_messages_takes_no_memory() -> None:
    rig = ConsoleRig(["a"])
    for _ in range(1000):
        rig.say(0, READY)
        rig.say(0, PORT_READY)
    assert rig.messages() == [(0, ADD, 1, b""), (0, NAME, 1, b"a"), (0, OPEN, 1, b"")]


def test_case_55_a_buffer_too_small_for_a_message_comes_back_empty() -> None:
    rig = ConsoleRig(["name"])
    rig.say(0, PORT_READY)
    (small,) = rig.hear(room=11)
    assert (small.is_done, small.length) == (True, 0)
    assert rig.messages() == [(0, NAME, 1, b"name"), (0, OPEN, 1, b"")]


def test_case_13_a_message_may_be_spread_over_buffers() -> None:
    rig = ConsoleRig(["a"])
    rig.send(CONTROL_OUT, *(bytes([b]) for b in pack("<IHH", 0, READY, 1)))
    assert rig.messages() == [(0, ADD, 1, b"")]


def test_case_57_a_size_is_told_to_a_port_that_is_ready_and_to_others_later() -> None:
    rig = ConsoleRig(["", "log"])
    rig.device.resize(80, 24)
    assert rig.messages() == []
    rig.open_all()
    rig.messages()
    rig.device.resize(132, 50)
    assert rig.messages() == [(0, RESIZE, 1, pack("<HH", 132, 50))]
    assert "config" not in rig.interrupts


def test_a_reset_closes_all_ports() -> None:
    rig = ConsoleRig(["a"])
    rig.open_all()
    rig.start(rig.device.features)
    rig.waiting.clear()
    assert not rig.ports[0].listens
    assert rig.messages() == []


@pytest.mark.parametrize("count", [0, PORTS_MAX + 1])
def test_a_number_of_ports_that_can_not_be_is_refused(count: int) -> None:
    ports = [ConsolePort(StallSink(0), "x") for _ in range(count)]
    with pytest.raises(ValueError, match=r"not 1\.\.31"):
        VirtioConsole(ports)


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 128 bytes"):
        ConsolePort(StallSink(0), "é" * (NAME_MAX // 2 + 1))


# State


def test_a_state_has_ports_messages_and_what_was_not_taken() -> None:
    rig, other = ConsoleRig(["", "log"], room=0), ConsoleRig(["", "log"])
    rig.device.resize(80, 24)
    rig.open_all()
    rig.hear(3)
    rig.waiting.clear()
    rig.send(5, b"hello")
    other.device.restore(rig.device.state())
    assert other.taken(1) == b"hello"
    assert other.ports[1].listens
    assert other.rooms == ["", "log"]
    assert other.messages() == rig.messages()
    assert other.device.config() == rig.device.config()


def test_the_terminal_stays_that_of_todays_host() -> None:
    rig, other = ConsoleRig(["", "log"]), ConsoleRig(["", "log"])
    rig.device.resize(80, 24)
    rig.open_all()
    rig.messages()
    other.device.resize(132, 50)
    other.device.restore(rig.device.state())
    assert other.messages() == [(0, RESIZE, 1, pack("<HH", 132, 50))]


def test_case_57_a_snapshot_before_the_driver_has_its_port_loses_no_size() -> None:
    rig, other = ConsoleRig(), ConsoleRig()
    rig.device.stop()
    rig.device.resize(132, 50)
    rig.start()
    other.device.restore(rig.device.state())
    other.send(OUT, b"hello")
    assert other.interrupts.count("config") == 1


def test_a_state_of_another_number_of_ports_is_refused() -> None:
    with pytest.raises(InvalidState, match="it has 1 ports"):
        ConsoleRig().device.restore(ConsoleRig(["", "log"]).device.state())


def test_a_state_has_each_event_once() -> None:
    with pytest.raises(InvalidState, match="in that order"):
        PortState(True, True, (OPEN, OPEN), b"")
    with pytest.raises(InvalidState, match="ports"):
        ConsoleState(0, 0, ())
