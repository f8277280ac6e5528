"""Endpoints: files, pipes, sockets and terminals, none of which may block us."""

import fcntl
import os
import queue
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vmm import endpoint as endpoint_module
from vmm.endpoint import FdEndpoint, NullEndpoint, open_output_file
from vmm.errors import ConfigError
from vmm.event_loop import EventLoop
from vmm.unix_endpoint import UnixEndpoint

pytest_plugins = ("loop_fixtures",)

DEADLINE = 10.0
PIPE_SIZE = 4096

OnLoop = Callable[[Callable[[], object]], None]


class FakeHost:
    """A console that notes what its endpoint tells it."""

    def __init__(self) -> None:
        self.takes_input = True
        self.input: queue.Queue[bytes] = queue.Queue()
        self.ready: queue.Queue[None] = queue.Queue()

    def endpoint_ready(self) -> None:
        self.ready.put(None)

    def endpoint_input(self, data: bytes) -> bool:
        self.input.put(data)
        return self.takes_input


class Rig:
    """A host, a loop, and a place for what has to be closed."""

    def __init__(self, loop: EventLoop, on_loop: OnLoop) -> None:
        self.loop = loop
        self.host = FakeHost()
        self.stack = ExitStack()
        self._on_loop = on_loop

    def serve(self, out: int, in_: int | None = None) -> FdEndpoint:
        endpoint = FdEndpoint(self.loop, self.host, out, in_)
        self.stack.callback(endpoint.close)
        self.loop.start()
        return endpoint

    def listen(self, path: Path, **options: int) -> UnixEndpoint:
        endpoint = UnixEndpoint(self.loop, self.host, str(path), **options)
        self.stack.callback(endpoint.close)
        self.loop.start()
        return endpoint

    def write(self, endpoint: FdEndpoint | UnixEndpoint, data: bytes) -> int:
        taken: list[int] = []
        self._on_loop(lambda: taken.append(endpoint.write(data)))
        return taken[0]

    def resume(self, endpoint: FdEndpoint | UnixEndpoint) -> None:
        self._on_loop(endpoint.resume_input)

    def pipe(self) -> tuple[int, int]:
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.stack.callback(os.close, reader)
        self.stack.callback(os.close, writer)
        return reader, writer

    def socketpair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        theirs.settimeout(DEADLINE)
        self.stack.enter_context(ours)
        self.stack.enter_context(theirs)
        return ours, theirs

    def connect(self, path: Path) -> socket.socket:
        client = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(DEADLINE)
        client.connect(str(path))
        return client

    def terminal(self) -> tuple[int, int]:
        ours, theirs = os.openpty()
        self.stack.callback(os.close, ours)
        self.stack.callback(os.close, theirs)
        return ours, theirs

    def input(self) -> bytes:
        return self.host.input.get(timeout=DEADLINE)

    def await_room(self) -> None:
        self.host.ready.get(timeout=DEADLINE)


@pytest.fixture
def rig(loop: EventLoop, on_loop: OnLoop) -> Iterator[Rig]:
    rig = Rig(loop, on_loop)
    yield rig
    loop.stop()
    rig.stack.close()


# Output


def test_null_takes_everything() -> None:
    endpoint = NullEndpoint()
    assert endpoint.write(b"abc") == 3
    endpoint.resume_input()
    endpoint.close()


def test_file_is_appended_to_where_the_descriptor_stands(
    rig: Rig, tmp_path: Path
) -> None:
    with open(tmp_path / "log", "wb", buffering=0) as file:
        file.write(b"before ")
        endpoint = rig.serve(file.fileno())
        assert rig.write(endpoint, b"during ") == 7
        file.write(b"after")
    assert (tmp_path / "log").read_bytes() == b"before during after"


def test_pipe_takes_what_it_has_room_for(rig: Rig) -> None:
    reader, writer = rig.pipe()
    endpoint = rig.serve(writer)
    assert rig.write(endpoint, b"x" * 2 * PIPE_SIZE) == PIPE_SIZE
    assert len(os.read(reader, 2 * PIPE_SIZE)) == PIPE_SIZE


def test_room_in_the_pipe_is_told(rig: Rig) -> None:
    reader, writer = rig.pipe()
    endpoint = rig.serve(writer)
    rig.write(endpoint, b"x" * 2 * PIPE_SIZE)
    assert rig.write(endpoint, b"y") == 0
    os.read(reader, PIPE_SIZE)
    rig.await_room()
    assert rig.write(endpoint, b"y") == 1


def test_socket_takes_what_it_has_room_for_and_tells_of_more(rig: Rig) -> None:
    ours, theirs = rig.socketpair()
    endpoint = rig.serve(ours.fileno())
    taken = rig.write(endpoint, b"x" * (8 << 20))
    assert 0 < taken < 8 << 20
    received = 0
    while received < taken:
        received += len(theirs.recv(1 << 20))
    rig.await_room()


def test_terminal_is_written_to(rig: Rig) -> None:
    ours, theirs = rig.terminal()
    endpoint = rig.serve(theirs)
    assert rig.write(endpoint, b"hello") == 5
    assert os.read(ours, 10) == b"hello"


def test_terminal_that_can_not_be_opened_anew_takes_a_little_at_a_time(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = rig.terminal()

    def deny(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", deny)
        endpoint = rig.serve(theirs)
    assert rig.write(endpoint, b"x" * 1000) == endpoint_module.SAFE_WRITE
    assert os.read(ours, 1000) == b"x" * endpoint_module.SAFE_WRITE
    rig.await_room()


@pytest.mark.parametrize("kind", ["pipe", "socketpair", "terminal"])
def test_o_nonblock_is_not_set_on_what_others_share(rig: Rig, kind: str) -> None:
    pair = getattr(rig, kind)()
    fds = [end if isinstance(end, int) else end.fileno() for end in pair]
    os.set_blocking(fds[0], True)
    os.set_blocking(fds[1], True)
    endpoint = rig.serve(fds[1], fds[0])
    rig.write(endpoint, b"x")
    assert [os.get_blocking(fd) for fd in fds] == [True, True]


def test_reader_that_has_gone_is_an_error(rig: Rig) -> None:
    reader, writer = os.pipe()
    endpoint = rig.serve(writer)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        endpoint.write(b"x")
    os.close(writer)


def test_reader_that_went_before_we_came_is_an_error(rig: Rig) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    endpoint = rig.serve(writer)
    with pytest.raises(BrokenPipeError):
        endpoint.write(b"x")
    os.close(writer)


def test_closing_leaves_the_callers_descriptors_open(rig: Rig) -> None:
    reader, writer = rig.pipe()
    endpoint = rig.serve(writer, reader)
    rig.loop.stop()
    endpoint.close()
    endpoint.close()
    os.fstat(reader)
    os.fstat(writer)


def test_output_file_is_made_empty(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"old")
    os.close(open_output_file(str(tmp_path / "log")))
    assert (tmp_path / "log").read_bytes() == b""


def test_output_file_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^serial: file '.*/none/log': No such file"):
        open_output_file(str(tmp_path / "none" / "log"))


# Input


def test_input_of_a_pipe_reaches_the_host(rig: Rig) -> None:
    reader, writer = rig.pipe()
    rig.serve(writer, reader)
    os.write(writer, b"ls\n")
    assert rig.input() == b"ls\n"


def test_input_of_a_file_reaches_the_host_to_its_end(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "script").write_bytes(b"x" * 10_000)
    _, writer = rig.pipe()
    with open(tmp_path / "script", "rb") as file:
        rig.serve(writer, file.fileno())
        assert sum(len(rig.input()) for _ in range(3)) == 10_000
        rig.loop.stop()


def test_paused_input_is_read_after_it_is_resumed(rig: Rig) -> None:
    reader, writer = rig.pipe()
    rig.host.takes_input = False
    endpoint = rig.serve(writer, reader)
    os.write(writer, b"one")
    assert rig.input() == b"one"
    os.write(writer, b"two")
    rig.resume(endpoint)
    assert rig.input() == b"two"


def test_end_of_input_is_no_error(rig: Rig) -> None:
    _, writer = rig.pipe()
    with open(os.devnull, "rb") as null:
        endpoint = rig.serve(writer, null.fileno())
        rig.resume(endpoint)
        rig.resume(endpoint)
    assert rig.host.input.empty()


def test_hung_up_terminal_is_the_end_of_input(rig: Rig) -> None:
    ours, theirs = os.openpty()
    _, writer = rig.pipe()
    endpoint = rig.serve(writer, theirs)
    os.close(ours)
    rig.resume(endpoint)
    rig.resume(endpoint)
    rig.loop.stop()
    os.close(theirs)
    assert rig.host.input.empty()


# The unix socket


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
