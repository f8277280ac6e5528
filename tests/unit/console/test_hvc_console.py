"""A console on hvc0: what ttyS0 and it print, what is typed, and how large it is."""

from contextlib import ExitStack

import pytest
from support.console_rig import DEADLINE, OnLoop
from support.guests import wait_until
from support.virtio_device_rig import DeviceRig

from vmm.console.config import ConsoleConfig
from vmm.console.console import Console
from vmm.devices.buffered_sink import BufferedSink
from vmm.devices.serial import Serial
from vmm.devices.virtio.console import ConsolePort, VirtioConsole
from vmm.event_loop import EventLoop

pytest_plugins = ("support.loop_fixtures", "support.console_fixtures")

IN, OUT = 0, 1
THR, IER, LSR, THRE = 0, 1, 5, 0x20


class Line:
    def trigger(self) -> None:
        """To nobody."""


class HvcRig(DeviceRig):
    """A console of both, and the driver of hvc0."""

    def __init__(self, loop: EventLoop, **settings: str | int) -> None:
        config = ConsoleConfig(**settings)  # type: ignore[arg-type]
        self.failures: list[str] = []
        self.console = console = Console(loop, config, self.failures.append)
        self.serial = Serial(Line(), console.branch(), clock=loop)
        console.connect(self.serial)
        on_room = console.events.in_buffer_empty
        self.port = ConsolePort(console.branch(), is_console=True, on_room=on_room)
        device = VirtioConsole([self.port])
        console.connect(self.port, device.resize)
        super().__init__(device)

    def give_buffers(self, count: int, room: int = 4096) -> None:
        for _ in range(count):
            self.requests.append(self.drivers[IN].send([], [room]))
        self.kick(IN)

    def start(self, features: int = 0, size: int = 16) -> None:
        super().start(features, size)
        self.requests = self.drivers[IN].collect()

    def read(self, size: int) -> bytes:
        """What was typed, so many bytes of it."""

        def typed() -> bytes:
            with self.device.lock:
                self.collect()
            return b"".join(request.data for request in self.requests)

        wait_until(lambda: len(typed()) >= size, "what was typed")
        return typed()


@pytest.fixture
def rig(loop: EventLoop, stack: ExitStack) -> HvcRig:
    rig = HvcRig(loop)
    stack.callback(rig.console.close)
    return rig


def test_what_both_print_comes_in_its_order(rig: HvcRig, loop: EventLoop) -> None:
    loop.start()
    rig.start()
    for byte in b"early, ":
        rig.serial.write(THR, byte)
    rig.send(OUT, b"late\n")
    found = rig.console.expect("late\n", DEADLINE)
    assert found.before == b"early, "


def test_both_hear_of_room_again(loop: EventLoop, stack: ExitStack) -> None:
    rig = HvcRig(loop, serial_buffer=4)
    stack.callback(rig.console.close)
    rig.start()
    rig.send(OUT, b"1234567")
    rig.serial.write(THR, ord("8"))
    assert not rig.serial.read(LSR) & THRE
    loop.start()
    reader = rig.console.reader()
    reader.expect("8", DEADLINE)
    assert sorted(rig.console.transcript) == list(b"12345678")
    wait_until(lambda: bool(rig.serial.read(LSR) & THRE), "room")


def test_what_is_typed_is_hvc0s(rig: HvcRig, loop: EventLoop) -> None:
    loop.start()
    rig.start()
    rig.give_buffers(2)
    rig.console.send("ls\n")
    assert rig.read(3) == b"ls\n"


def test_what_is_typed_before_there_is_a_driver_waits_for_its_buffers(
    rig: HvcRig, loop: EventLoop, on_loop: OnLoop
) -> None:
    loop.start()
    rig.console.send("x" * 3000)
    on_loop(lambda: None)
    rig.start()
    rig.give_buffers(8, room=100)
    assert rig.read(800) == b"x" * 800
    rig.give_buffers(8, room=1000)
    assert rig.read(3000) == b"x" * 3000


def test_a_break_is_typed_in_its_place(rig: HvcRig, loop: EventLoop) -> None:
    loop.start()
    rig.start()
    rig.give_buffers(4)
    rig.console.send_break(b"ab")
    rig.console.send("h")
    assert rig.read(4) == b"ab\x0fh"


def test_what_is_typed_while_it_is_held_waits(
    rig: HvcRig, loop: EventLoop, on_loop: OnLoop
) -> None:
    loop.start()
    rig.start()
    rig.give_buffers(4)
    on_loop(rig.console.hold_input)
    rig.console.send("x")
    on_loop(lambda: None)
    assert all(not request.is_done for request in rig.requests)
    rig.console.release_input()
    assert rig.read(1) == b"x"


def test_a_flush_takes_what_the_guest_has_written_and_nobody_has_looked_at(
    rig: HvcRig,
) -> None:
    rig.start()
    rig.drivers[OUT].send([b"last words"])
    rig.console.flush()
    assert rig.console.sink.peek() == b"last words"


def test_a_size_is_the_terminals_columns_and_rows(rig: HvcRig) -> None:
    rig.console.resize(24, 80)
    assert rig.device.config()[:4] == b"\x50\0\x18\0"


def test_ttys0_has_no_size(loop: EventLoop, stack: ExitStack) -> None:
    console = Console(loop, ConsoleConfig(), print)
    stack.callback(console.close)
    console.connect(Serial(Line(), BufferedSink(), clock=loop))
    console.resize(24, 80)
    with console.follow_terminal():
        pass
