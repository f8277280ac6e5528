"""Console: input no faster than the guest reads."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.console_rig import DEADLINE, FCR, MCR, RX, OnLoop, Rig, Start

from vmm.console.config import ConsoleConfig
from vmm.console.console import Console
from vmm.console.input import PATIENCE_NS, TURN
from vmm.devices.serial.receiver import FIFO_SIZE
from vmm.devices.serial.reg import UART_LSR_OE
from vmm.errors import VmmError
from vmm.event_loop import EventLoop

pytest_plugins = ("support.loop_fixtures", "support.console_fixtures")


def test_ten_kilobytes_reach_the_guest_in_order(start: Start) -> None:
    rig = start("capture")
    rig.guest.listen()
    data = os.urandom(10_000)
    rig.console.send(data)
    assert rig.guest.read(len(data)) == data


def test_text_is_sent_as_utf_8(start: Start) -> None:
    rig = start("capture")
    rig.guest.listen()
    rig.console.send("é")
    assert rig.guest.read(2) == "é".encode()


def test_no_more_than_the_fifo_is_offered(start: Start, on_loop: OnLoop) -> None:
    rig = start("capture")
    rig.guest.serial.write(FCR, 1)
    rig.console.send(b"x" * 100)
    on_loop(lambda: None)
    taken = 0
    while rig.guest.has_input and taken < 64:
        rig.guest.serial.read(RX)
        taken += 1
    assert taken == 64


def test_loopback_holds_input_back(start: Start, on_loop: OnLoop) -> None:
    rig = start("capture")
    rig.guest.listen()
    rig.guest.serial.write(4, 0x10)  # MCR: loopback
    rig.console.send(b"x")
    on_loop(lambda: None)
    assert not rig.guest.has_input
    rig.guest.serial.write(4, 0)
    assert rig.guest.read(1) == b"x"


@pytest.fixture
def client(start: Start, stack: ExitStack, tmp_path: Path) -> tuple[Rig, socket.socket]:
    rig = start(f"unix:{tmp_path}/ttyS0")
    client = stack.enter_context(socket.socket(socket.AF_UNIX))
    client.connect(f"{tmp_path}/ttyS0")
    return rig, client


Client = tuple[Rig, socket.socket]


def test_what_a_client_pastes_reaches_the_guest_in_order(client: Client) -> None:
    rig, peer = client
    rig.guest.listen()
    data = os.urandom(100_000)
    sender = threading.Thread(target=peer.sendall, args=(data,))
    sender.start()
    assert rig.guest.read(len(data)) == data
    sender.join()


def test_clients_input_passes_the_filter(client: Client) -> None:
    rig, peer = client
    rig.guest.listen()
    rig.console.input_filter = bytes.upper
    peer.send(b"abc")
    assert rig.guest.read(3) == b"ABC"


def test_clients_input_waits_until_the_guest_listens(
    client: Client, on_loop: OnLoop
) -> None:
    rig, peer = client
    came = threading.Event()

    def note(data: bytes) -> bytes:
        came.set()
        return data

    rig.console.input_filter = note
    peer.send(b"x")
    assert came.wait(DEADLINE)
    on_loop(lambda: None)
    assert not rig.guest.has_input
    rig.guest.listen()
    assert rig.guest.read(1) == b"x"


def test_break_comes_after_what_was_typed_before_it(start: Start) -> None:
    rig = start("capture")
    rig.guest.listen()
    before, after = os.urandom(200), os.urandom(200)
    rig.console.send(before)
    rig.console.send_break(b"+")
    rig.console.send_break()
    rig.console.send(after)
    got = rig.guest.read_with_breaks(403)
    assert got == [*before, *b"+", None, None, *after]


def test_break_waits_for_room_and_for_the_end_of_a_loopback(
    start: Start, on_loop: OnLoop
) -> None:
    rig = start("capture")
    rig.guest.listen()
    rig.guest.serial.write(MCR, 0x10)  # loopback
    rig.console.send_break()
    on_loop(lambda: None)
    assert not rig.guest.has_input
    rig.guest.serial.write(MCR, 0)
    assert rig.guest.read_with_breaks(1) == [None]
    rig.console.send(b"x" * FIFO_SIZE)
    rig.console.send_break()
    assert rig.guest.read_with_breaks(FIFO_SIZE + 1) == [*b"x" * FIFO_SIZE, None]
    assert rig.guest.serial.state().line_status & UART_LSR_OE == 0


def test_guest_that_drains_its_fifo_at_once_lets_others_have_their_turn(
    loop: EventLoop, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(loop, "capture")
    stack.callback(rig.console.close)
    order: list[object] = []

    def take(data: bytes) -> int:
        order.append(len(data))
        return len(data)

    monkeypatch.setattr(rig.guest.serial, "enqueue_raw_bytes", take)
    rig.console.send(b"x" * FIFO_SIZE * TURN * 2)
    done = threading.Event()
    loop.call_soon(lambda: order.append("another's"))
    loop.call_soon(lambda: loop.call_soon(lambda: loop.call_soon(done.set)))
    loop.start()
    assert done.wait(DEADLINE)
    turn = [FIFO_SIZE] * TURN
    assert order == [*turn, "another's", *turn]


def test_guest_that_empties_its_fifo_over_and_over_makes_no_work_pile_up(
    loop: EventLoop, stack: ExitStack
) -> None:
    rig = Rig(loop, "capture")
    stack.callback(rig.console.close)
    rig.console.send(b"x")
    before = len(loop._timers)
    for _ in range(1000):
        rig.console.events.in_buffer_empty()
    assert len(loop._timers) <= before + 1


def test_console_that_only_shows_takes_no_input(
    loop: EventLoop, stack: ExitStack, on_loop: OnLoop, tmp_path: Path
) -> None:
    """Such is the debug console: a client that types must not end the run."""
    config = ConsoleConfig(serial=f"unix:{tmp_path}/sock")
    console = Console(loop, config, print)
    stack.callback(console.close)
    loop.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/sock")
        client.sendall(b"typed")
        console.sink.write(b"shown")
        client.settimeout(DEADLINE)
        assert client.recv(5) == b"shown"
    on_loop(lambda: None)  # it runs on
    with pytest.raises(VmmError, match="takes no input"):
        console.send("x")


# A guest that is paused


def test_input_is_held_back_while_the_guest_is_paused(
    start: Start, on_loop: OnLoop
) -> None:
    rig = start("capture")
    rig.guest.listen()
    on_loop(rig.console.hold_input)
    rig.console.send(b"meanwhile")
    on_loop(lambda: None)
    assert not rig.guest.has_input
    rig.console.release_input()
    assert rig.guest.read(9) == b"meanwhile"


def test_a_pause_is_no_patience_with_a_guest_that_does_not_listen(
    start: Start, on_loop: OnLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Input that was there before the guest has booted waits for its driver."""
    monkeypatch.setattr("vmm.console.input.PATIENCE_NS", 50_000_000)
    rig = start(f"unix:{tmp_path}/ttyS0")
    rig.console.power_on()
    on_loop(rig.console.hold_input)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/ttyS0")
        client.sendall(b"early")
        time.sleep(0.1)
        rig.console.release_input()
        on_loop(lambda: None)
        assert not rig.guest.has_input
        rig.guest.listen()
        assert rig.guest.read(5) == b"early"


class _LoopThatLooksIn(EventLoop):
    """What the loop's thread may do between two lines of another is done when asked
    for the time."""

    meanwhile: Callable[[], object] = bool
    at_ns = 0

    def now_ns(self) -> int:
        self.meanwhile()
        return self.at_ns


def test_the_end_of_a_pause_leaves_no_moment_without_patience(
    tmp_path: Path, stack: ExitStack
) -> None:
    loop = _LoopThatLooksIn(print)
    stack.callback(loop.close)
    rig = Rig(loop, f"unix:{tmp_path}/ttyS0")
    stack.callback(rig.console.close)
    rig.console.power_on()
    rig.console.hold_input()
    loop.at_ns = 10 * PATIENCE_NS

    def look() -> None:
        loop.meanwhile = bool
        rig.console.endpoint_input(b"early")

    loop.meanwhile = look
    rig.console.release_input()
    assert not rig.guest.has_input  # it would be lost: the driver clears the FIFO
