"""Users' files: what is opened, what is refused, and that nothing blocks."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from support.open_fds import open_fds

from vmm.input_file import open_regular, read_up_to


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.bind(os.fspath(path))


OTHERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "directory": (Path.mkdir, "is a directory, not a file"),
    "FIFO": (os.mkfifo, "is a pipe, not a file: put what it has into a file first"),
    "socket": (listening, "is a socket, not a file"),
    "device": (lambda path: path.symlink_to("/dev/null"), "is a device, not a file"),
}


@pytest.mark.parametrize(("make", "words"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_file_is_named_and_never_opened(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    make(tmp_path / "it")
    with mock.patch("os.open") as opened, pytest.raises(OSError, match=words):
        open_regular(tmp_path / "it")
    opened.assert_not_called()


def test_fifo_that_came_in_a_files_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "it")
    before = open_fds()
    looked = mock.patch("os.stat", return_value=os.stat(__file__))
    with looked, pytest.raises(OSError, match="is a pipe"):
        open_regular(tmp_path / "it")
    assert open_fds() == before


def test_pipe_of_a_shell_is_named() -> None:
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="is a pipe"):
        open_regular(f"/dev/fd/{reader}")
    os.close(reader)
    os.close(writer)


def test_path_with_a_nul_is_an_os_error() -> None:
    with pytest.raises(OSError, match="null byte"):
        open_regular("a\0b")


@pytest.mark.parametrize("size", [0, 1, 5, 6])
def test_no_more_is_read_than_asked_for(tmp_path: Path, size: int) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_up_to(tmp_path / "f", size) == b"12345"[:size]


def test_sparse_file_is_read_up_to_the_size(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    os.truncate(tmp_path / "f", 1 << 40)
    assert read_up_to(tmp_path / "f", 3 << 20) == bytes(3 << 20)
