"""Tees: copies of the output, beside the capture or beside an endpoint."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.console_rig import DEADLINE, OnLoop, Start

from vmm.console.config import ConsoleConfig
from vmm.console.console import Console
from vmm.console.endpoint import TURN
from vmm.errors import ConfigError, VmmError
from vmm.event_loop import EventLoop

pytest_plugins = ("support.loop_fixtures", "support.console_fixtures")

MIB = 1 << 20


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    client.settimeout(DEADLINE)
    return client


def test_file_and_socket_get_what_is_captured(start: Start, tmp_path: Path) -> None:
    rig = start("capture", f"file:{tmp_path}/log", f"unix:{tmp_path}/sock")
    with connect(tmp_path / "sock") as client:
        rig.print(b"hello")
        rig.console.expect("hello", DEADLINE)
        assert client.recv(100) == b"hello"
    rig.console.finish(DEADLINE)
    assert (tmp_path / "log").read_bytes() == b"hello"
    assert rig.console.transcript == b"hello"


def test_an_endpoints_output_can_be_expected_too(start: Start, tmp_path: Path) -> None:
    rig = start(f"file:{tmp_path}/one", "capture")
    rig.print(b"hello")
    rig.console.expect("hello", DEADLINE)
    rig.console.finish(DEADLINE)
    assert (tmp_path / "one").read_bytes() == rig.console.transcript == b"hello"


def test_endpoint_and_tee_both_get_all_and_it_can_be_expected(
    start: Start, tmp_path: Path
) -> None:
    rig = start(f"file:{tmp_path}/one", f"file:{tmp_path}/two")
    rig.print(b"x" * 100_000 + b"end")
    rig.console.expect("end", DEADLINE)
    rig.console.finish(DEADLINE)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").stat().st_size == 100_003


class SlowTee:
    """A tee whose client reads nothing, and a guest that prints."""

    def __init__(self, start: Start, tmp_path: Path, on_loop: OnLoop) -> None:
        self.rig = start("capture", f"unix:{tmp_path}/sock")
        self.client = connect(tmp_path / "sock")
        self.on_loop = on_loop
        self.print(b"x")
        assert self.client.recv(1) == b"x"  # it is served now

    def print(self, data: bytes) -> bytes:
        """Print; what the script reads of it."""
        read = b""
        for start in range(0, len(data), TURN):
            self.rig.print(data[start : start + TURN])
            self.on_loop(self.rig.console.endpoint_ready)
            read += self.rig.console.read()
        return read


@pytest.fixture
def slow(start: Start, tmp_path: Path, on_loop: OnLoop) -> Iterator[SlowTee]:
    slow = SlowTee(start, tmp_path, on_loop)
    with slow.client:
        yield slow


def test_client_that_does_not_read_slows_nobody(slow: SlowTee) -> None:
    for _ in range(8):
        assert len(slow.print(b"x" * MIB)) == MIB
    received = 0
    while received < 8 * MIB:
        received += len(slow.client.recv(MIB))
    assert received == 8 * MIB


def test_client_behind_by_the_limit_holds_the_output(slow: SlowTee) -> None:
    slow.rig.console._captured().history.limit = 4 * MIB
    for _ in range(10):
        slow.print(b"x" * (MIB // 2))
    assert len(slow.rig.console.sink) > 0
    slow.client.close()
    slow.rig.console.finish(DEADLINE)
    assert len(slow.rig.console.sink) == 0


def test_client_that_has_not_read_all_after_the_end_fails_the_run(
    slow: SlowTee, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.console.output.TEE_PATIENCE_S", 0.05)
    for _ in range(4):
        slow.print(b"x" * MIB)
    slow.rig.console.finish(DEADLINE)
    assert [failure[:6] for failure in slow.rig.failures] == ["tee 'u"]
    assert "its reader was too slow" in slow.rig.failures[0]


def test_nobody_is_told_of_readers_that_a_stop_has_abandoned(
    slow: SlowTee, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.console.output.HURRY_S", 0.05)
    for _ in range(4):
        slow.print(b"x" * MIB)
    slow.rig.console.abandon()
    slow.rig.console.finish(DEADLINE)
    assert slow.rig.failures == []


def test_what_is_typed_at_a_tee_goes_nowhere(start: Start, tmp_path: Path) -> None:
    rig = start("capture", f"unix:{tmp_path}/sock")
    with connect(tmp_path / "sock") as client:
        client.send(b"typed")
        rig.print(b"x")
        assert client.recv(1) == b"x"
    assert not rig.guest.has_input


def test_tee_that_can_not_be_written_fails_the_run(
    loop: EventLoop, start: Start, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    rig = start("capture", f"file:{tmp_path}/fifo")
    os.close(reader)
    rig.print(b"nobody")
    assert rig.failed.wait(DEADLINE)
    assert rig.failures == [
        f"tee 'file:{tmp_path}/fifo' can't be written: [Errno 32] Broken pipe"
    ]
    assert rig.console.expect("nobody", DEADLINE)


def test_error_on_opening_names_the_field(loop: EventLoop, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    for where, complaint in (
        (f"file:{tmp_path}/no/log", "^tee: file .*: No such file"),
        (f"unix:{tmp_path}/plain", "^tee: .* exists and is not a socket"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            Console(loop, ConsoleConfig(tee=where), print)


def test_reading_what_is_not_captured_says_how_to(start: Start) -> None:
    rig = start("null")
    with pytest.raises(VmmError, match="needs serial='capture'"):
        rig.console.read()
