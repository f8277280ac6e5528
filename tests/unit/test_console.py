"""Console: output in order and whole, input no faster than the guest reads."""

import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from open_fds import open_fds

from vmm.capture import GuestEnded
from vmm.config import MachineConfig
from vmm.console import Console
from vmm.devices.serial import Serial
from vmm.errors import ConfigError
from vmm.event_loop import EventLoop
from vmm.result import ExitReason, RunResult

pytest_plugins = ("loop_fixtures",)

DEADLINE = 10.0
RX, IER, FCR, LSR = 0, 1, 2, 5  # offsets of registers
DATA_READY = 1
PIPE_SIZE = 4096

OnLoop = Callable[[Callable[[], object]], None]


class Guest:
    """A driver that reads its UART by interrupt."""

    def __init__(self, console: Console, loop: EventLoop) -> None:
        self._interrupt = threading.Event()
        self.serial = Serial(self, console.sink, clock=loop, events=console)

    def trigger(self) -> None:
        self._interrupt.set()

    def listen(self) -> None:
        """Turn the FIFOs and the receive interrupt on."""
        self.serial.write(FCR, 1)
        self.serial.write(IER, 1)

    @property
    def has_input(self) -> bool:
        return bool(self.serial.read(LSR) & DATA_READY)

    def read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            assert self._interrupt.wait(DEADLINE)
            self._interrupt.clear()
            while self.has_input:
                data.append(self.serial.read(RX))
        return bytes(data)


class Rig:
    """A console with a guest at its inner end."""

    def __init__(self, loop: EventLoop, serial: str) -> None:
        self.failures: list[str] = []
        self.failed = threading.Event()
        self.console = Console(loop, MachineConfig(serial=serial), self._fail)
        self.guest = Guest(self.console, loop)
        self.console.connect(self.guest.serial)

    def _fail(self, detail: str) -> None:
        self.failures.append(detail)
        self.failed.set()

    def print(self, data: bytes) -> None:
        assert self.console.sink.write(data) == len(data)


@pytest.fixture
def stack(loop: EventLoop) -> Iterator[ExitStack]:
    """For what is closed after the loop has stopped."""
    with ExitStack() as stack:
        yield stack
        loop.stop()


Start = Callable[[str], Rig]


@pytest.fixture
def start(loop: EventLoop, stack: ExitStack) -> Start:
    """Makes a console and starts its loop."""

    def make(serial: str) -> Rig:
        rig = Rig(loop, serial)
        stack.callback(rig.console.close)
        rig.console.power_on()
        loop.start()
        return rig

    return make


@pytest.fixture
def fifo(tmp_path: Path, stack: ExitStack) -> tuple[str, int]:
    """`--serial` for a small FIFO, and its reading end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    stack.callback(os.close, reader)
    return f"file:{path}", reader


def read_exactly(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += os.read(fd, count - len(data))
    return data


# Output


def test_output_reaches_the_file(start: Start, tmp_path: Path) -> None:
    rig = start(f"file:{tmp_path}/log")
    rig.print(b"hello ")
    rig.print(b"world")
    rig.console.finish(DEADLINE)
    assert (tmp_path / "log").read_bytes() == b"hello world"


def test_output_keeps_its_order(start: Start, fifo: tuple[str, int]) -> None:
    where, reader = fifo
    rig = start(where)
    lines = [f"line {number}\n".encode() for number in range(2000)]
    for line in lines:
        rig.print(line)
    assert read_exactly(reader, len(b"".join(lines))) == b"".join(lines)


def test_reader_that_stalls_and_comes_back_loses_nothing(
    start: Start, fifo: tuple[str, int], on_loop: OnLoop
) -> None:
    where, reader = fifo
    rig = start(where)
    data = bytes(range(256)) * 400
    rig.print(data)
    on_loop(rig.console.endpoint_ready)  # it is full now
    assert len(rig.console.sink) == len(data) - PIPE_SIZE
    assert read_exactly(reader, len(data)) == data


def test_reader_that_has_gone_is_told_once(
    loop: EventLoop, start: Start, tmp_path: Path, on_loop: OnLoop
) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    rig = start(f"file:{tmp_path}/fifo")
    os.close(reader)
    rig.print(b"nobody")
    assert rig.failed.wait(DEADLINE)
    rig.print(b"still nobody")
    on_loop(rig.console.endpoint_ready)
    assert rig.failures == [
        "the console's output can't be written: [Errno 32] Broken pipe"
    ]
    assert len(rig.console.sink) == 0


def test_null_discards(start: Start, on_loop: OnLoop) -> None:
    rig = start("null")
    rig.print(b"x" * 100_000)
    rig.console.finish(DEADLINE)
    assert len(rig.console.sink) == 0


def test_first_output_has_its_time(start: Start, loop: EventLoop) -> None:
    rig = start("null")
    assert rig.console.first_output_ns is None
    before = loop.now_ns()
    rig.print(b"x")
    assert rig.console.first_output_ns is not None
    assert before <= rig.console.first_output_ns <= loop.now_ns()


def test_finish_waits_for_a_slow_reader(start: Start, fifo: tuple[str, int]) -> None:
    where, reader = fifo
    rig = start(where)
    rig.print(b"x" * 50_000)
    finished = threading.Thread(target=rig.console.finish, args=(None,))
    finished.start()
    assert len(read_exactly(reader, 50_000)) == 50_000
    finished.join(DEADLINE)
    assert not finished.is_alive()


def test_abandon_ends_the_wait_for_a_reader(
    start: Start, fifo: tuple[str, int]
) -> None:
    where, _ = fifo
    rig = start(where)
    rig.print(b"x" * 50_000)
    finished = threading.Thread(target=rig.console.finish, args=(None,))
    finished.start()
    rig.console.abandon()
    finished.join(DEADLINE)
    assert not finished.is_alive()


def test_panic_is_seen_though_no_reader_takes_it(
    start: Start, fifo: tuple[str, int]
) -> None:
    where, _ = fifo
    rig = start(where)
    rig.print(b"x" * 50_000)
    rig.print(b"\r\nKernel panic - not syncing: gone\r\n")
    assert rig.console.panic_line == "Kernel panic - not syncing: gone"


def test_panic_is_remembered_when_it_was_taken(start: Start) -> None:
    rig = start("null")
    rig.print(b"Kernel panic - not syncing: gone\r\n")
    rig.console.finish(DEADLINE)
    assert rig.console.panic_line == "Kernel panic - not syncing: gone"


# Capture


def test_captured_output_can_be_expected(start: Start) -> None:
    rig = start("capture")
    rig.print(b"one two")
    assert rig.console.expect("one", DEADLINE)
    assert rig.console.read() == b" two"


def test_capture_moves_every_byte_once_while_it_is_read(start: Start) -> None:
    rig = start("capture")
    lines = [f"<{number}>".encode() for number in range(2000)]
    printer = threading.Thread(target=lambda: list(map(rig.print, lines)))
    printer.start()
    got = b""
    while len(got) < len(b"".join(lines)):
        match = rig.console.expect(">", DEADLINE)
        got += match.string[: match.end()]
    printer.join()
    assert got == b"".join(lines)


def test_output_moves_on_the_loops_thread_alone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = start("capture")
    rig.console._capture._limit = 4  # so that expect makes room
    consume, threads = rig.console.sink.consume, set()

    def note(count: int) -> None:
        threads.add(threading.current_thread().name)
        consume(count)

    monkeypatch.setattr(rig.console.sink, "consume", note)
    rig.print(b"abcdefgh")
    rig.console.expect("d", DEADLINE)
    rig.console.expect("h", DEADLINE)
    assert threads == {"vmm-events"}


def test_end_of_the_run_ends_expect(start: Start) -> None:
    rig = start("capture")
    rig.console.end(RunResult(ExitReason.RESET, 0))
    with pytest.raises(GuestEnded):
        rig.console.expect("login", timeout=3600)


# Input


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


# Opening and closing


def test_what_can_not_be_opened_leaves_nothing_open(
    loop: EventLoop, tmp_path: Path
) -> None:
    before = open_fds()
    with pytest.raises(ConfigError, match=r"^serial: "):
        Console(loop, MachineConfig(serial=f"file:{tmp_path}/no/log"), print)
    assert open_fds() == before


@pytest.mark.parametrize("where", ["capture", "null", "file:{}/log", "unix:{}/sock"])
def test_closing_leaves_nothing_open(where: str, tmp_path: Path) -> None:
    before = open_fds()
    loop = EventLoop(lambda error: None)
    rig = Rig(loop, where.format(tmp_path))
    loop.start()
    rig.print(b"x")
    loop.stop()
    rig.console.close()
    rig.console.close()
    loop.close()
    assert open_fds() == before
