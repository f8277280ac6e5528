"""What a guest sends as files ends where it was asked for, or nowhere."""

import io
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmm import VmmError
from vmm.agent.archive import ArchiveReader, write_archive


def record(kind: bytes, name: bytes = b"x", mode: int = 0o644, size: int = 0) -> bytes:
    return struct.pack("<cHIQQ", kind, len(name), mode, 0, size) + name


def piece(offset: int, data: bytes) -> bytes:
    return struct.pack("<QI", offset, len(data)) + data


FILE = record(b"f") + piece(0, b"data") + piece(0, b"")
UP = record(b"u", b"")


def extract(data: bytes, local: Path) -> None:
    ArchiveReader(io.BytesIO(data), "/remote").extract(str(local))


@pytest.mark.parametrize(
    "inside",
    [
        record(b"f", b"..") + piece(0, b""),
        record(b"f", b".") + piece(0, b""),
        record(b"f", b"a/b") + piece(0, b""),
        record(b"f", b"/etc/x") + piece(0, b""),
        record(b"f", b"") + piece(0, b""),
        record(b"f", b"a\0b") + piece(0, b""),
        record(b"f", b"a" * 5000),
        record(b"?"),
        record(b"l", size=0),
        record(b"l", size=1 << 40),
        record(b"l", size=3) + b"a\0b",
        record(b"f") + struct.pack("<QI", 0, 1 << 30),
        record(b"f") + struct.pack("<QI", 1 << 63, 8) + b"12345678",
        record(b"f") + piece(10, b"x") + piece(3, b"y"),
        record(b"d") * 100,
        b"",
        b"half",
    ],
)
def test_what_makes_no_sense_leaves_nothing(inside: bytes, tmp_path: Path) -> None:
    with pytest.raises(VmmError, match="'/remote': what the agent sent makes no sense"):
        extract(record(b"d", mode=0o755) + inside, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_link_is_not_followed(tmp_path: Path) -> None:
    """A link to a directory, and then something in it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    target = os.fsencode(outside)
    link = record(b"l", b"way", size=len(target)) + target
    for then in (
        record(b"d", b"way") + FILE + UP,
        record(b"f", b"way") + piece(0, b""),
        link,
    ):
        with pytest.raises(FileExistsError):
            extract(record(b"d") + link + then + UP, tmp_path / "out")
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_link_in_place_of_a_file_is_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(VmmError, match="a link"):
        extract(record(b"l", size=11) + b"/etc/passwd", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


AS_NOBODY = """
import io, os, shutil, sys, tempfile  # which nobody may be able to read
from vmm.agent.archive import ArchiveReader
if os.getuid() == 0:
    os.setuid(65534)
ArchiveReader(io.BytesIO(sys.stdin.buffer.read()), "/remote").extract(sys.argv[1])
"""


def extract_as_nobody(data: bytes, local: Path) -> str:
    """What root may isn't what users may; its last words."""
    local.parent.chmod(0o777)
    paths = f"import sys; sys.path[:0] = {sys.path!r}"
    done = subprocess.run(
        [sys.executable, "-c", f"{paths}\n{AS_NOBODY}", str(local)],
        input=data,
        capture_output=True,
        cwd="/",
        check=False,
    )
    return done.stderr.decode()


@pytest.fixture
def anybodys() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "in").mkdir()
        yield Path(folder) / "in"


def test_directory_that_nobody_may_write_to(anybodys: Path) -> None:
    data = record(b"d", mode=0o555) + record(b"d", mode=0o500) + FILE + UP + UP
    assert extract_as_nobody(data, anybodys / "out") == ""
    assert (anybodys / "out").stat().st_mode & 0o7777 == 0o555
    assert (anybodys / "out" / "x" / "x").read_bytes() == b"data"


def test_nothing_is_left_of_one_that_nobody_may_look_into(anybodys: Path) -> None:
    way = record(b"l", b"way", size=4) + b"/etc"
    data = record(b"d") + way + record(b"d", mode=0) + FILE + UP
    assert "an end in the middle" in extract_as_nobody(data, anybodys / "out")
    assert list(anybodys.iterdir()) == []


def test_fault_is_the_guests_errno(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as caught:
        extract(record(b"d") + record(b"x", b"/remote/secret", 13), tmp_path / "out")
    assert caught.value.filename == "/remote/secret"


def test_more_than_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(VmmError, match="more than was asked for"):
        extract(FILE + b"x", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nobody_is_made_another_user(tmp_path: Path) -> None:
    setuid = record(b"f", mode=0o104755) + piece(0, b"")
    extract(setuid, tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o7777 == 0o755


def test_folder_that_isnt_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        extract(FILE, tmp_path / "nowhere" / "out")
    assert caught.value.filename == str(tmp_path / "nowhere" / "out")


def test_file_that_is_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")
    extract(FILE, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"data"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.just(FILE),
            st.just(UP),
            st.builds(
                record, st.sampled_from([b"d", b"f", b"l", b"u"]), st.binary(max_size=3)
            ),
        ),
        max_size=10,
    )
)
def test_anything_ends_in_an_error_of_ours(tmp_path: Path, pieces: list[bytes]) -> None:
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    try:
        extract(record(b"d", mode=0o755) + b"".join(pieces), folder / "out")
    except (VmmError, OSError):
        assert list(folder.iterdir()) == []
    else:
        os.rename(folder / "out", tmp_path / f"done{len(list(tmp_path.iterdir()))}")
    assert {path.name[:4] for path in tmp_path.iterdir()} <= {"in", "done"}


def test_what_cant_be_sent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="neither file, directory nor link"):
        write_archive(str(tmp_path), lambda data: None)
