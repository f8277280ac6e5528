"""Console: output in order and whole, written or captured."""

import errno
import fcntl
import os
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.console_rig import DEADLINE, PIPE_SIZE, OnLoop, Rig, Start

from vmm.console.endpoint import CHUNK, TURN
from vmm.errors import GuestEnded
from vmm.event_loop import EventLoop
from vmm.expect.history import IN_MEMORY
from vmm.result import ExitReason, RunResult

pytest_plugins = ("support.loop_fixtures", "support.console_fixtures")


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


def test_output_without_an_end_lets_others_have_their_turn(
    loop: EventLoop, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(loop, "null")
    stack.callback(rig.console.close)
    taken: list[int] = []
    seen: list[int] = []

    def more(count: int) -> None:
        taken.append(count)
        consume(count)
        if len(taken) < 30:
            rig.print(b"x" * count)

    consume = rig.console.sink.consume
    monkeypatch.setattr(rig.console.sink, "consume", more)
    rig.print(b"x" * CHUNK)
    loop.call_soon(rig.console.endpoint_ready)
    loop.call_soon(lambda: seen.append(sum(taken)))
    loop.start()
    rig.console.finish(DEADLINE)
    assert seen == [TURN]
    assert len(taken) == 30
    assert len(loop._timers) < 3


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


def test_all_is_shown_though_no_reader_takes_it(
    start: Start, fifo: tuple[str, int]
) -> None:
    where, _ = fifo
    rig = start(where)
    rig.print(b"x" * 50_000)
    rig.print(b"last words\r\n")
    rig.console.show_rest()
    assert rig.shown == b"x" * 50_000 + b"last words\r\n"


def test_what_is_taken_is_shown_with_its_position(start: Start) -> None:
    rig = start("null")
    rig.print(b"first ")
    rig.console.finish(DEADLINE)
    rig.print(b"second")
    rig.console.finish(DEADLINE)
    assert rig.shown == b"first second"


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
    rig.console._captured().history.limit = 4  # so that expect makes room
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


def test_full_disk_of_the_capture_fails_the_run(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rig = start("capture")
    monkeypatch.setattr(os, "pwrite", full)
    rig.print(b"x" * (IN_MEMORY + 1))
    assert rig.failed.wait(DEADLINE)
    assert "can't be written: [Errno 28] No space left" in rig.failures[0]


def test_sendline_adds_a_newline(start: Start) -> None:
    rig = start("capture")
    rig.guest.listen()
    rig.console.sendline("ls")
    rig.console.sendline(b"id")
    rig.console.sendline()
    assert rig.guest.read(7) == b"ls\nid\n\n"


def test_any_of_several_may_be_expected_and_silence_awaited(start: Start) -> None:
    rig = start("capture")
    rig.print(b"one two three")
    assert rig.console.expect_any(["four", "two"], DEADLINE).index == 1
    assert rig.console.read_until_idle(0.2, DEADLINE) == b" three"
    assert rig.console.transcript == b"one two three"
