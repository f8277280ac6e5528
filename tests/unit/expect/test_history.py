"""Spool: the latest bytes, in memory or in a file."""

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
from vmm.expect.history import Spool


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
    spool = Spool(limit=8, in_memory=in_memory)
    for piece in pieces:
        spool.append(piece)
    everything = b"".join(pieces)
    assert spool.end == len(everything)
    assert spool.start == max(0, len(everything) - 8)
    assert spool.read(spool.start, 100) == everything[-8:]
    spool.close()


def test_few_bytes_make_no_file(tmp_path: Path) -> None:
    before = open_fds()
    spool = Spool(limit=100, in_memory=4)
    spool.append(b"abcd")
    assert open_fds() == before
    assert spool.read(1, 2) == b"bc"


def test_many_bytes_make_a_file_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = open_fds()
    spool = Spool(limit=100, in_memory=4)
    stack.callback(spool.close)
    spool.append(b"abcd")
    spool.append(b"efgh")
    assert len(open_fds()) == len(before) + 1
    assert list(tmp_path.iterdir()) == []
    assert spool.read(0, 100) == b"abcdefgh"
    spool.close()
    assert open_fds() == before


def test_what_is_in_memory_outlives_the_end_and_the_file_does_not() -> None:
    small, large = Spool(limit=9, in_memory=9), Spool(limit=9, in_memory=0)
    for spool in (small, large):
        spool.append(b"abc")
        spool.close()
        spool.close()
    assert small.read(0, 9) == b"abc"
    with pytest.raises(VmmError, match="the machine is closed"):
        large.read(0, 9)


def test_full_disk_is_an_error_that_keeps_what_is_there(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spool = Spool(limit=100, in_memory=0)
    stack.callback(spool.close)
    spool.append(b"abc")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        spool.append(b"def")
    assert spool.read(0, 100) == b"abc"


def test_what_was_overwritten_is_not_read() -> None:
    spool = Spool(limit=4)
    spool.append(b"abcd")
    spool.append(b"ef")
    assert spool.read(2, 9) == b"cdef"
    with pytest.raises(VmmError, match="overwritten"):
        spool.read(1, 9)
    spool.close()
