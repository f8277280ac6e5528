"""Endpoints: what is written, and not blocked by."""

import os
from pathlib import Path

import pytest
from support.endpoint_rig import PIPE_SIZE, Rig

from vmm.console import endpoint as endpoint_module
from vmm.console.endpoint import NullEndpoint
from vmm.console.opening import open_output_file
from vmm.errors import ConfigError

pytest_plugins = ("support.loop_fixtures", "support.endpoint_fixtures")


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


def test_file_that_is_truncated_meanwhile_goes_on_at_its_start(
    rig: Rig, tmp_path: Path
) -> None:
    fd = open_output_file(str(tmp_path / "log"))
    rig.stack.callback(os.close, fd)
    endpoint = rig.serve(fd)
    assert rig.write(endpoint, b"before") == 6
    os.truncate(tmp_path / "log", 0)  # as logrotate's copytruncate does
    assert rig.write(endpoint, b"after") == 5
    assert (tmp_path / "log").read_bytes() == b"after"


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
