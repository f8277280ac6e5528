"""Our sockets' files: who may connect, and that nothing but them is removed."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from vmm.console.socket_file import Identity, ListeningSocket, remove, reported_to
from vmm.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ttyS0"


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path: Path) -> int:
    return path.lstat().st_mode & 0o7777


def replace_by_file(path: Path) -> None:
    path.unlink()
    path.write_text("precious")


def replace_by_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(path))


REPLACEMENTS = pytest.mark.parametrize(
    "put", [replace_by_file, replace_by_socket], ids=["file", "socket"]
)


@pytest.mark.parametrize("bits", [0o000, 0o022, 0o277])
def test_nobody_else_may_connect_whatever_the_umask(
    path: Path, umask: Callable[[int], int], bits: int
) -> None:
    umask(bits)
    listener = ListeningSocket(str(path))
    assert mode(path) == 0o600
    listener.close()


def test_others_may_connect_where_that_was_asked_for(
    path: Path, umask: Callable[[int], int]
) -> None:
    umask(0o077)
    listener = ListeningSocket(str(path), 0o666)
    assert mode(path) == 0o666
    listener.close()


def test_file_is_removed_at_the_end(path: Path) -> None:
    ListeningSocket(str(path)).close()
    assert not path.exists()


def test_file_is_removed_though_the_working_directory_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listener = ListeningSocket("ttyS0")
    monkeypatch.chdir("/")
    listener.close()
    assert not (tmp_path / "ttyS0").exists()


@REPLACEMENTS
def test_what_took_its_place_stays(path: Path, put: Callable[[Path], None]) -> None:
    listener = ListeningSocket(str(path))
    put(path)
    listener.close()
    assert path.exists()


@REPLACEMENTS
def test_what_took_its_place_stays_after_a_kill(
    path: Path, put: Callable[[Path], None]
) -> None:
    listener = ListeningSocket(str(path))
    told: list[Identity] = []
    with reported_to(told.extend), ExitStack() as stack:
        second = ListeningSocket(f"{path}-2")
        stack.callback(second.close)
        put(path)
        remove(told)  # as a Guardian does
        assert path.exists()
        assert not Path(f"{path}-2").exists()
    listener.close()


def test_whoever_removes_them_is_told_of_each_change(path: Path) -> None:
    told: list[list[str]] = []
    with reported_to(lambda files: told.append([name for name, *_ in files])):
        first = ListeningSocket(str(path))
        second = ListeningSocket(f"{path}-2")
        first.close()
        second.close()
        second.close()
    one, two = str(path), f"{path}-2"
    # Each is told of before it is made, and when it is known.
    assert told == [[one], [one], [one, two], [one, two], [two], []]


def test_one_that_was_just_being_made_is_removed_after_a_kill(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    remove([(str(path), 0, 0)])
    assert not path.exists()


def test_what_another_has_made_meanwhile_stays_after_a_kill(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(path))
        another.listen()
        remove([(str(path), 0, 0)])
        assert path.exists()
    path.unlink()
    path.write_text("precious")
    remove([(str(path), 0, 0)])
    assert path.exists()


def test_one_that_fails_after_bind_is_removed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("vmm.console.socket_file.os.open", fail)
        with pytest.raises(ConfigError, match="Too many open files"):
            ListeningSocket(str(path))
    assert not path.exists()


def test_what_could_not_be_made_is_forgotten(tmp_path: Path) -> None:
    told: list[Identity] = []
    with (
        reported_to(lambda files: told.__setitem__(slice(None), files)),
        pytest.raises(ConfigError, match="No such file or directory"),
    ):
        ListeningSocket(str(tmp_path / "none/ttyS0"))
    assert told == []


@pytest.mark.parametrize("queue", [0, 1])
def test_socket_whose_queue_is_full_is_served_by_another(
    path: Path, queue: int
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen(queue)
        for _ in range(queue + 1):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
        with pytest.raises(ConfigError, match=r"^tee: unix socket .* is served by an"):
            ListeningSocket(str(path), field="tee")
        assert path.exists()


def test_socket_of_another_kind_is_named_and_stays(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as another:
        another.bind(str(path))
        with pytest.raises(ConfigError, match=r"^serial: unix socket .* wrong type"):
            ListeningSocket(str(path))
        assert path.exists()
