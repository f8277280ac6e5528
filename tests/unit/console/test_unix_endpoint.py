"""UnixEndpoint: one client at a time, and what is kept for the next."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from support.endpoint_rig import Rig

from vmm.errors import ConfigError

pytest_plugins = ("support.loop_fixtures", "support.endpoint_fixtures")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ttyS0"


def test_client_gets_output_and_gives_input(rig: Rig, path: Path) -> None:
    endpoint = rig.listen(path)
    client = rig.connect(path)
    client.send(b"ls\n")
    assert rig.input() == b"ls\n"
    assert rig.write(endpoint, b"init") == 4
    assert client.recv(10) == b"init"


def test_client_gets_what_was_printed_before_it_came(rig: Rig, path: Path) -> None:
    endpoint = rig.listen(path)
    assert rig.write(endpoint, b"boot log") == 8
    client = rig.connect(path)
    assert client.recv(10) == b"boot log"


def test_what_waits_for_a_client_is_bounded_to_the_latest(rig: Rig, path: Path) -> None:
    endpoint = rig.listen(path, backlog=4)
    assert rig.write(endpoint, b"abcdef") == 6
    assert rig.write(endpoint, b"gh") == 2
    client = rig.connect(path)
    assert client.recv(10) == b"efgh"


def test_output_after_the_backlog_stays_in_order(rig: Rig, path: Path) -> None:
    endpoint = rig.listen(path, backlog=8 << 20)
    rig.write(endpoint, b"x" * (4 << 20))
    client = rig.connect(path)
    client.send(b"here")
    rig.input()
    assert rig.write(endpoint, b"after") == 0
    received = 0
    while received < 4 << 20:
        received += len(client.recv(1 << 20))
    rig.await_room()
    assert rig.write(endpoint, b"after") == 5
    assert client.recv(10) == b"after"


def test_second_client_is_hung_up_on(rig: Rig, path: Path) -> None:
    endpoint = rig.listen(path)
    first = rig.connect(path)
    second = rig.connect(path)
    assert second.recv(1) == b""
    rig.write(endpoint, b"x")
    assert first.recv(1) == b"x"


def test_next_client_is_served(rig: Rig, path: Path) -> None:
    endpoint = rig.listen(path)
    with rig.connect(path) as first:
        first.send(b"1")
        rig.input()
    rig.await_room()  # on its arrival
    rig.await_room()  # on its departure
    rig.write(endpoint, b"meanwhile")
    assert rig.connect(path).recv(10) == b"meanwhile"


def test_client_that_left_unread_input_makes_way_for_the_next(
    rig: Rig, path: Path
) -> None:
    endpoint = rig.listen(path)
    rig.host.takes_input = False
    with rig.connect(path) as first:
        first.send(b"pasted")
        rig.input()
        first.send(b"more, which stays unread while the guest does not read")
    second = rig.connect(path)
    second.send(b"hello")
    assert rig.input() == b"hello"
    rig.write(endpoint, b"x")
    assert second.recv(1) == b"x"


def test_output_to_a_client_that_left_is_kept_for_the_next(
    rig: Rig, path: Path
) -> None:
    endpoint = rig.listen(path)
    rig.host.takes_input = False
    with rig.connect(path) as first:
        first.send(b"x")
        rig.input()
    assert rig.write(endpoint, b"kept") == 4
    assert rig.connect(path).recv(10) == b"kept"


def test_input_of_a_client_that_left_is_still_read(rig: Rig, path: Path) -> None:
    endpoint = rig.listen(path)
    rig.host.takes_input = False
    with rig.connect(path) as client:
        client.send(b"first")
        assert rig.input() == b"first"
        client.send(b"last words")
    rig.write(endpoint, b"to nobody")
    rig.resume(endpoint)
    assert rig.input() == b"last words"


class Exhausted:
    """A call that finds no descriptor left, a few times; counts how often."""

    def __init__(self, call: Callable[..., object], failures: int) -> None:
        self.calls = 0
        self._call = call
        self._failures = failures

    def __call__(self, *arguments: object) -> object:
        self.calls += 1
        if self.calls <= self._failures:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._call(*arguments)


def test_client_for_whom_there_is_no_descriptor_waits_and_we_do_not_spin(
    rig: Rig, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = Exhausted(socket.socket.accept, 3)
    monkeypatch.setattr(socket.socket, "accept", lambda self: accept(self))
    monkeypatch.setattr("vmm.console.unix_endpoint.RETRY_NS", 1_000_000)
    endpoint = rig.listen(path)
    client = rig.connect(path)
    client.send(b"here")
    assert rig.input() == b"here"
    rig.write(endpoint, b"x")
    assert client.recv(1) == b"x"
    assert accept.calls == 4


def test_client_for_whom_there_is_but_one_descriptor_is_hung_up_on(
    rig: Rig, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmm.console.unix_endpoint.RETRY_NS", 1_000_000)
    monkeypatch.setattr(os, "dup", Exhausted(os.dup, 1))
    endpoint = rig.listen(path)
    assert rig.connect(path).recv(1) == b""
    rig.write(endpoint, b"kept")
    assert rig.connect(path).recv(10) == b"kept"


def test_stale_socket_is_replaced(rig: Rig, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    endpoint = rig.listen(path)
    rig.write(endpoint, b"x")
    assert rig.connect(path).recv(1) == b"x"


def test_served_socket_is_refused_and_stays(rig: Rig, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        with pytest.raises(ConfigError, match="is served by another"):
            rig.listen(path)
        assert path.exists()


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_what_is_no_socket_is_refused_and_stays(
    rig: Rig, path: Path, make: Callable[[Path], None]
) -> None:
    make(path)
    with pytest.raises(ConfigError, match="exists and is not a socket"):
        rig.listen(path)
    assert path.exists()


def test_too_long_a_path_is_refused(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="AF_UNIX path too long"):
        rig.listen(tmp_path / ("x" * 108))


def test_socket_is_removed_at_the_end(rig: Rig, path: Path) -> None:
    endpoint = rig.listen(path)
    client = rig.connect(path)
    rig.write(endpoint, b"x")
    rig.loop.stop()
    endpoint.close()
    assert not path.exists()
    assert client.recv(10) == b"x"
    assert client.recv(10) == b""


def test_socket_that_somebody_removed_is_no_error_at_the_end(
    rig: Rig, path: Path
) -> None:
    endpoint = rig.listen(path)
    path.unlink()
    rig.loop.stop()
    endpoint.close()
