"""Console: input no faster than the guest reads."""

import os
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from console_rig import DEADLINE, FCR, RX, OnLoop, Rig, Start

from vmm.event_loop import EventLoop

pytest_plugins = ("loop_fixtures", "console_fixtures")


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


def test_guest_that_empties_its_fifo_over_and_over_makes_no_work_pile_up(
    loop: EventLoop, stack: ExitStack
) -> None:
    rig = Rig(loop, "capture")
    stack.callback(rig.console.close)
    rig.console.send(b"x")
    before = len(loop._timers)
    for _ in range(1000):
        rig.console.in_buffer_empty()
    assert len(loop._timers) <= before + 1
