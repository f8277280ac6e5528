"""Overlay: what is written stays above an image that nobody writes to."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.disk_rig import KIB, an_image, read, write
from support.open_fds import open_fds

from vmm.disk import overlay as overlay_module
from vmm.disk.disk_file import DiskFile
from vmm.disk.overlay import FrozenDisk, Overlay

CLUSTER = 4 * KIB
SIZE = 64 * KIB


@pytest.fixture
def image(tmp_path: Path) -> Path:
    an_image(tmp_path / "base.img")
    return tmp_path / "base.img"


def opened(path: Path) -> DiskFile:
    return DiskFile.open(str(path), writes=False)


@pytest.fixture
def overlay(image: Path) -> Overlay:
    return Overlay.new(opened(image))


def kept(image: Path) -> Overlay:
    return Overlay.kept(opened(image), str(image.with_suffix(".cow")))


def test_at_first_it_is_the_image(image: Path, overlay: Overlay) -> None:
    assert read(overlay) == image.read_bytes()


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, 512),
        (512, 512),
        (CLUSTER, CLUSTER),
        (CLUSTER - 512, 1024),
        (CLUSTER + 512, 3 * CLUSTER),
        (SIZE - 512, 512),
        (0, SIZE),
    ],
)
def test_what_is_written_is_read_and_the_image_stays(
    image: Path, overlay: Overlay, offset: int, size: int
) -> None:
    expected = bytearray(before := image.read_bytes())
    expected[offset : offset + size] = bytes([7]) * size
    write(overlay, offset, bytes([7]) * size)
    assert read(overlay) == expected
    assert image.read_bytes() == before


def test_an_image_of_a_part_of_a_cluster(image: Path) -> None:
    os.truncate(image, SIZE - 512)
    overlay = Overlay.new(opened(image))
    write(overlay, SIZE - CLUSTER, b"x" * 512)
    write(overlay, SIZE - 1024, b"y" * 512)
    data = image.read_bytes()
    middle = data[SIZE - CLUSTER + 512 : -512]
    assert read(overlay, SIZE - CLUSTER) == b"x" * 512 + middle + b"y" * 512


def test_nothing_is_left_of_one_that_vanishes(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    overlay = Overlay.new(opened(image))
    write(overlay, 0, b"x" * CLUSTER)
    assert list(folder.iterdir()) == []
    overlay.close()
    overlay.close()


def test_zeros_need_no_space_and_hide_the_image(overlay: Overlay, image: Path) -> None:
    data = bytearray(image.read_bytes())
    data[512 : 5 * CLUSTER + 512] = bytes(5 * CLUSTER)
    overlay.write_zeroes(512, 5 * CLUSTER, True)
    assert read(overlay) == data
    overlay.write_zeroes(SIZE - 512, 512, True)
    data[-512:] = bytes(512)
    assert read(overlay) == data


def test_what_is_discarded_gives_its_space_back(overlay: Overlay) -> None:
    write(overlay, 0, b"x" * SIZE)
    blocks = os.fstat(overlay._top.fd).st_blocks
    overlay.discard(512, SIZE - 1024)
    assert os.fstat(overlay._top.fd).st_blocks < blocks
    assert read(overlay, 0, 512) == read(overlay, SIZE - 512, 512) == b"x" * 512


def test_to_discard_what_was_never_written_is_nothing(
    overlay: Overlay, image: Path
) -> None:
    overlay.discard(0, SIZE)
    overlay.discard(512, 512)
    assert read(overlay) == image.read_bytes()


# One that stays


def test_one_that_stays_goes_on_from_where_it_was(image: Path) -> None:
    first = kept(image)
    write(first, CLUSTER, b"1" * 512)
    first.flush()
    write(first, 0, b"2" * 512)
    first.close()
    second = kept(image)
    assert read(second, CLUSTER, 512) == b"1" * 512
    assert read(second, 0, 512) == b"2" * 512
    assert read(second, 3 * CLUSTER) == image.read_bytes()[3 * CLUSTER :]


def test_what_was_flushed_is_there_after_a_kill(image: Path) -> None:
    before = image.read_bytes()
    first = kept(image)
    write(first, 512, b"f" * 512)
    first.flush()
    write(first, 2 * CLUSTER, b"u" * 512)
    first._close()  # nothing more comes to the disk
    second = kept(image)
    data = read(second)
    assert data[512:1024] == b"f" * 512
    assert data[:512] + data[1024 : 2 * CLUSTER] == before[:512] + before[1024:8192]
    assert data[2 * CLUSTER + 512 :] == before[2 * CLUSTER + 512 :]
    assert data[2 * CLUSTER : 2 * CLUSTER + 512] in (b"u" * 512, before[8192:8704])


def test_a_map_is_never_on_the_disk_before_its_data(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    overlay = kept(image)
    write(overlay, 0, b"x" * 512)
    top = overlay._top
    monkeypatch.setattr(os, "fdatasync", lambda _: order.append("sync"))
    monkeypatch.setattr(top, "write_map", lambda *_: order.append("map"))
    overlay.flush()
    overlay.flush()
    assert order == ["sync", "map", "sync", "sync"]


def test_one_that_vanishes_promises_nothing(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fdatasync", lambda _: pytest.fail("it has no need to"))
    write(overlay, 0, b"x" * 512)
    overlay.flush()


def test_an_empty_file_becomes_an_overlay(image: Path) -> None:
    image.with_suffix(".cow").touch()
    assert read(kept(image)) == image.read_bytes()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"something else", "no overlay of ours"),
        (b'{"format": "minivmm overlay", "version": 1', "damaged"),
        (b'{"format": "minivmm overlay", "version": 2}', "version"),
        (b'{"format": "minivmm overlay", "version": 1, "size": -1}', "damaged"),
        (
            b'{"format": "minivmm overlay", "version": 1, "size": 65536, "base_size":'
            b' 1, "base_mtime_ns": 1, "map_at": 9, "data_at": 8}',
            "damaged",
        ),
    ],
)
def test_what_is_none_is_refused(image: Path, content: bytes, what: str) -> None:
    image.with_suffix(".cow").write_bytes(content)
    with pytest.raises(OSError, match=what):
        kept(image)
    assert image.with_suffix(".cow").read_bytes() == content


def test_nothing_stays_open_of_what_was_refused(image: Path) -> None:
    kept(image).close()
    os.utime(image, ns=(1, 1))
    before = open_fds()
    for _ in range(3):
        with pytest.raises(OSError, match="was changed since"):
            kept(image)
    overlay = Overlay.new(opened(image))
    overlay.freeze()
    overlay.close()
    del overlay
    assert open_fds() == before


def test_a_file_system_without_nameless_files_has_one_that_is_unlinked(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cant(path: str, flags: int, *mode: int, **how: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, *mode, **how)

    real = os.open
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr(os, "open", cant)
    overlay = Overlay.new(opened(image))
    write(overlay, 0, b"x" * 512)
    assert read(overlay, 0, 512) == b"x" * 512
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_overlay_of_an_image_that_was_changed_is_refused(image: Path) -> None:
    kept(image).close()
    image.write_bytes(image.read_bytes()[::-1])
    with pytest.raises(OSError, match="was changed since"):
        kept(image)


def test_two_that_write_to_one_overlay_are_kept_apart(image: Path) -> None:
    first = kept(image)
    with pytest.raises(BlockingIOError, match="somebody else") as caught:
        kept(image)
    assert caught.value.filename == str(image.with_suffix(".cow"))
    first.close()
    kept(image).close()


# Growth


def test_what_grows_has_zeros_at_its_end(image: Path) -> None:
    os.truncate(image, SIZE - 512)
    for overlay in Overlay.new(opened(image)), kept(image):
        write(overlay, 0, b"x" * 512)
        overlay.freeze()
        overlay.resize(2 * SIZE)
        data = image.read_bytes()
        assert read(overlay) == b"x" * 512 + data[512:] + bytes(SIZE + 512)
        write(overlay, 2 * SIZE - 512, b"y" * 512)
        assert read(overlay, 2 * SIZE - 512) == b"y" * 512
        with pytest.raises(OSError, match="smaller"):
            overlay.resize(SIZE)
        overlay.close()
    assert kept(image).size == 2 * SIZE


# Snapshots


def test_a_snapshot_is_what_was_and_the_disk_goes_on(
    image: Path, overlay: Overlay
) -> None:
    write(overlay, 0, b"1" * 512)
    frozen = overlay.freeze()
    then = read(overlay)
    write(overlay, 0, b"2" * 512)
    write(overlay, 8 * CLUSTER, b"3" * CLUSTER)
    one, other = Overlay.above(frozen), Overlay.above(frozen)
    write(one, 512, b"4" * 512)
    assert read(other) == then
    assert read(one, 0, 1024) == b"1" * 512 + b"4" * 512
    assert read(overlay, 0, 512) == b"2" * 512
    overlay.become(frozen)
    assert read(overlay) == then
    write(overlay, 0, b"5" * 512)
    assert read(other) == then


def test_what_can_not_be_put_back_stays_as_it_is(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = overlay.freeze()
    write(overlay, 0, b"1" * 512)
    monkeypatch.setenv("TMPDIR", "/no/where")
    with pytest.raises(FileNotFoundError):
        overlay.become(frozen)
    assert read(overlay, 0, 512) == b"1" * 512


def test_what_is_closed_is_there_for_who_shares_it(overlay: Overlay) -> None:
    write(overlay, 0, b"1" * 512)
    frozen = overlay.freeze()
    clone = Overlay.above(frozen)
    overlay.close()
    del frozen
    assert read(clone, 0, 512) == b"1" * 512


def test_snapshots_without_end_are_no_more_layers(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay_module, "LAYERS_MAX", 3)
    kept_snapshots = []
    for number in range(12):
        write(overlay, number * CLUSTER, bytes([number]) * 512)
        kept_snapshots.append((overlay.freeze(), read(overlay)))
        assert len(overlay._layers) <= 5
    for frozen, data in kept_snapshots:
        assert read(Overlay.above(frozen)) == data


def test_a_snapshot_of_what_nobody_has_written_to_is_no_layer(overlay: Overlay) -> None:
    for _ in range(100):
        overlay.freeze()
    assert len(overlay._layers) == 1


def test_a_snapshot_of_one_that_stays_is_a_copy(image: Path) -> None:
    overlay = kept(image)
    write(overlay, 0, b"1" * 512)
    frozen = overlay.freeze()
    then = read(overlay)
    write(overlay, 0, b"2" * 512)
    assert read(Overlay.above(frozen)) == then
    assert read(overlay, 0, 512) == b"2" * 512


def test_what_is_saved_is_loaded(image: Path, tmp_path: Path, overlay: Overlay) -> None:
    write(overlay, 512, b"1" * 512)
    overlay.freeze()
    write(overlay, 7 * CLUSTER, b"2" * 8 * KIB)
    frozen = overlay.freeze()
    with (tmp_path / "saved").open("wb+") as file:
        frozen.save(file.fileno())
        loaded = FrozenDisk.load(opened(image), file.fileno())
    assert read(Overlay.above(loaded)) == read(overlay)


# Any sequence, against bytes

_places = st.tuples(st.integers(0, SIZE // 512 - 1), st.integers(1, 40))
_steps = st.lists(
    st.tuples(
        st.sampled_from(["write", "zero", "discard", "freeze", "become", "reopen"]),
        _places,
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(steps=_steps, stays=st.booleans())
def test_any_sequence_is_what_plain_bytes_are(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, tuple[int, int]]],
    stays: bool,
) -> None:
    image = tmp_path_factory.mktemp("any") / "base.img"
    model = bytearray(an_image(image))
    base = bytes(model)
    overlay = kept(image) if stays else Overlay.new(opened(image))
    frozen = overlay.freeze(), bytes(model)
    for number, (name, (sector, count)) in enumerate(steps):
        offset = 512 * sector
        size = min(512 * count, SIZE - offset)
        if name == "write":
            data = bytes([number]) * size
            write(overlay, offset, data)
            model[offset : offset + size] = data
        elif name == "zero":
            overlay.write_zeroes(offset, size, True)
            model[offset : offset + size] = bytes(size)
        elif name == "discard":
            overlay.discard(offset, size)
            inside = slice(offset, offset + size)
            model[inside] = read(overlay)[inside]
        elif name == "freeze":
            frozen = overlay.freeze(), bytes(model)
        elif name == "become" and not stays:
            overlay.become(frozen[0])
            model[:] = frozen[1]
        elif name == "reopen" and stays:
            overlay.close()
            overlay = kept(image)
        assert read(overlay) == model
    assert read(Overlay.above(frozen[0])) == frozen[1]
    assert image.read_bytes() == base
    overlay.close()
