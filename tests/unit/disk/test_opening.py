"""Images that users have, and what else lies in their place: one line each."""

import errno
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.disk_rig import an_image, read, write

from vmm import ConfigError
from vmm.disk import file_io
from vmm.disk.config import DiskConfig
from vmm.disk.opening import Backend, open_backend


def opened(text: str) -> Backend:
    return open_backend(DiskConfig.parse(text), pytest.fail)


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        opened(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    an_image(tmp_path / "disk.img")
    return tmp_path / "disk.img"


def test_a_raw_image_is_read_and_written_in_its_place(image: Path) -> None:
    backend = opened(str(image))
    assert read(backend) == image.read_bytes()
    write(backend, 512, b"x" * 1024)
    backend.flush()
    assert image.read_bytes()[512:1536] == b"x" * 1024
    backend.close()
    backend.close()


def test_case_37_a_raw_image_stays_one_whatever_is_in_it(image: Path) -> None:
    backend = opened(str(image))
    write(backend, 0, b"QFI\xfb".ljust(512, b"\0"))
    backend.close()
    told: list[str] = []
    backend = open_backend(DiskConfig.parse(str(image)), told.append)
    assert read(backend, 0, 4) == b"QFI\xfb"
    assert backend.size == image.stat().st_size
    (line,) = told
    assert "is taken as raw, and looks like qcow2" in line


def test_an_image_whose_name_says_nothing_is_raw_with_a_word(tmp_path: Path) -> None:
    an_image(tmp_path / "data.bin")
    told: list[str] = []
    open_backend(DiskConfig(path=str(tmp_path / "data.bin")), told.append)
    assert told == [
        f"disk '{tmp_path}/data.bin' is taken as raw: say format=raw if it is"
    ]
    opened(f"{tmp_path}/data.bin,format=raw")


# What lies in an image's place


def test_nothing_is_there(tmp_path: Path) -> None:
    path = f"{tmp_path}/none.img"
    assert refused(path) == f"disks: '{path}': No such file or directory"
    assert refused(f"{path},cow=x") == f"disks: '{path}': No such file or directory"


@pytest.mark.parametrize("size", [0, 1, 513, 100_000])
def test_a_size_that_no_disk_has(image: Path, size: int) -> None:
    os.truncate(image, size)
    for how in ("", ",ro", ",cow"):
        why = "is empty" if size == 0 else f"has {size} bytes, not a multiple of 512"
        assert refused(f"{image}{how}").startswith(f"disks: '{image}': {why}")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (Path.mkdir, "is a directory"),
        (os.mkfifo, "is a pipe"),
        (lambda path: os.symlink("/dev/null", path), "is a character device"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "is a socket"),
        (lambda path: os.symlink("nowhere", path), "No such file"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_something_else(
    tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    make(tmp_path / "x.img")
    assert what in refused(f"{tmp_path}/x.img")


def test_no_permission_to_write(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_writer(path: str, flags: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, flags)

    real = os.open
    monkeypatch.setattr(os, "open", no_writer)
    assert "to write to it: add ro, or cow" in refused(str(image))
    opened(f"{image},ro")


def test_an_overlay_that_can_not_be_made(image: Path, tmp_path: Path) -> None:
    nowhere = f"{tmp_path}/no/where"
    assert refused(f"{image},cow={nowhere}").startswith(f"disks: '{nowhere}': No such")
    assert refused(f"{image},cow={image}").startswith(
        f"disks: '{image}': somebody else"
    )


def test_an_overlay_without_a_place(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/no/where")
    assert "No such file" in refused(f"{image},cow")


# Locks


@pytest.mark.parametrize("other", ["", ",ro", ",cow"])
def test_who_writes_keeps_others_out(image: Path, other: str) -> None:
    writer = opened(str(image))
    assert refused(f"{image}{other}") == f"disks: '{image}': somebody else writes to it"
    writer.close()
    opened(f"{image}{other}").close()


@pytest.mark.parametrize("first", [",ro", ",cow"])
def test_readers_share_and_keep_writers_out(image: Path, first: str) -> None:
    readers = [opened(f"{image}{how}") for how in (first, ",ro", ",cow")]
    assert "somebody else has it in use" in refused(str(image))
    for reader in readers:
        reader.close()
    opened(str(image)).close()


@pytest.mark.skipif(
    shutil.which("qemu-storage-daemon") is None, reason="no qemu-storage-daemon"
)
@pytest.mark.parametrize("ours", ["", ",ro"])
def test_qemus_programs_are_kept_out_as_well(image: Path, ours: str) -> None:
    backend = opened(f"{image}{ours}")
    export = f"type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path={image}.s"
    done = subprocess.run(
        [
            *("qemu-storage-daemon", "--blockdev"),
            f"driver=file,node-name=f,filename={image}",
            *("--export", f"{export},writable=on"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    backend.close()
    assert done.returncode
    assert 'Failed to get "write" lock' in done.stderr


# What a host's files can't


def test_an_image_that_shrinks_is_an_error_and_not_the_end(image: Path) -> None:
    backend = opened(str(image))
    os.truncate(image, 512)
    with pytest.raises(OSError, match="shorter"):
        read(backend)
    assert len(read(backend, 0, 512)) == 512


def test_case_36_short_reads_and_writes_are_gone_on_with(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = image.read_bytes()
    backend = opened(str(image))
    preadv, pwritev = os.preadv, os.pwritev

    def less(call: Callable[..., int]) -> Callable[..., int]:
        return lambda fd, views, offset: call(fd, [views[0][:333]], offset)

    monkeypatch.setattr(os, "preadv", less(preadv))
    monkeypatch.setattr(os, "pwritev", less(pwritev))
    assert read(backend, 512, 4096) == data[512:4608]
    write(backend, 1024, b"w" * 2048)
    monkeypatch.undo()
    assert image.read_bytes() == data[:1024] + b"w" * 2048 + data[3072:]


def test_case_66_more_buffers_than_a_call_takes(image: Path) -> None:
    backend = opened(str(image))
    many = 2 * file_io.IOV_MAX + 1
    data = bytearray(many)
    whole = memoryview(data)
    backend.read([whole[at : at + 1] for at in range(many)], 512)
    assert data == image.read_bytes()[512 : 512 + many]


def test_space_comes_back(image: Path) -> None:
    backend = opened(str(image))
    write(backend, 0, b"x" * backend.size)
    backend.flush()
    before = image.stat().st_blocks
    backend.discard(0, 32 << 10)
    backend.write_zeroes(32 << 10, 16 << 10, True)
    assert image.stat().st_blocks < before
    assert read(backend, 0, 48 << 10) == bytes(48 << 10)
    assert read(backend, 48 << 10) == b"x" * (16 << 10)


@pytest.mark.parametrize("may_discard", [True, False])
def test_zeros_where_a_file_system_knows_no_holes(
    image: Path, monkeypatch: pytest.MonkeyPatch, may_discard: bool
) -> None:
    def cant(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(file_io, "fallocate", cant)
    data = image.read_bytes()
    backend = opened(str(image))
    backend.write_zeroes(512, 4096, may_discard)
    backend.discard(8192, 4096)
    assert image.read_bytes() == data[:512] + bytes(4096) + data[4608:]


def test_a_resize_is_the_files(image: Path) -> None:
    backend = opened(str(image))
    backend.resize(1 << 20)
    assert image.stat().st_size == backend.size == 1 << 20
    os.truncate(image, 4096)
    backend.resize(None)
    assert backend.size == 4096
    os.truncate(image, 4097)
    with pytest.raises(OSError, match="not a multiple"):
        backend.resize(None)
    with pytest.raises(OSError, match="isn't ours"):
        opened_read_only(image).resize(512)


def opened_read_only(image: Path) -> Backend:
    os.truncate(image, 4096)
    copy = image.with_name("copy.img")
    copy.write_bytes(image.read_bytes())
    return opened(f"{copy},ro")


@pytest.mark.parametrize("reflinks", [True, False])
def test_ranges_are_copied_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reflinks: bool
) -> None:
    if not reflinks:

        def cant(*_: object) -> int:
            raise OSError(errno.EXDEV, "another file system")

        monkeypatch.setattr(os, "copy_file_range", cant)
    data = an_image(tmp_path / "a", 3 << 20)
    source = os.open(tmp_path / "a", os.O_RDONLY)
    target = os.open(tmp_path / "b", os.O_RDWR | os.O_CREAT)
    file_io.copy_range(source, 4096, target, 512, 2 << 20)
    assert (tmp_path / "b").read_bytes() == bytes(512) + data[4096 : 4096 + (2 << 20)]
    with pytest.raises(OSError, match="shorter"):
        file_io.copy_range(source, 0, target, 0, 4 << 20)
    os.close(source)
    os.close(target)


def test_a_kept_overlay_is_its_users_file(image: Path, tmp_path: Path) -> None:
    path = tmp_path / "over"
    opened(f"{image},cow={path}").close()
    assert stat.S_ISREG(path.stat().st_mode)
