"""History: the latest bytes, in memory or in a file."""

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.open_fds import open_fds

from vmm.errors import VmmError
from vmm.expect.history import History


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@given(
    pieces=st.lists(st.binary(max_size=8), max_size=20),
    in_memory=st.integers(0, 20),
)
def test_latest_bytes_are_kept_however_they_come(
    pieces: list[bytes], in_memory: int
) -> None:
    history = History(limit=8, in_memory=in_memory)
    for piece in pieces:
        history.append(piece)
    everything = b"".join(pieces)
    assert history.end == len(everything)
    assert history.start == max(0, len(everything) - 8)
    assert history.read(history.start, 100) == everything[-8:]
    history.close()


def test_few_bytes_make_no_file(tmp_path: Path) -> None:
    before = open_fds()
    history = History(limit=100, in_memory=4)
    history.append(b"abcd")
    assert open_fds() == before
    assert history.read(1, 2) == b"bc"


def test_many_bytes_make_a_file_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = open_fds()
    history = History(limit=100, in_memory=4)
    stack.callback(history.close)
    history.append(b"abcd")
    history.append(b"efgh")
    assert len(open_fds()) == len(before) + 1
    assert list(tmp_path.iterdir()) == []
    assert history.read(0, 100) == b"abcdefgh"
    history.close()
    assert open_fds() == before


def test_what_is_in_memory_outlives_the_end_and_the_file_does_not() -> None:
    small, large = History(limit=9, in_memory=9), History(limit=9, in_memory=0)
    for history in (small, large):
        history.append(b"abc")
        history.close()
        history.close()
    assert small.read(0, 9) == b"abc"
    with pytest.raises(VmmError, match="the machine is closed"):
        large.read(0, 9)


def test_full_disk_is_an_error_that_keeps_what_is_there(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    history = History(limit=100, in_memory=0)
    stack.callback(history.close)
    history.append(b"abc")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        history.append(b"def")
    assert history.read(0, 100) == b"abc"


def test_what_was_overwritten_is_not_read() -> None:
    history = History(limit=4)
    history.append(b"abcd")
    history.append(b"ef")
    assert history.read(2, 9) == b"cdef"
    with pytest.raises(VmmError, match="overwritten"):
        history.read(1, 9)
    history.close()
