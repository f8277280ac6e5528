"""The files of a snapshot: whole or not there, and the user's only."""

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.lengths import cases
from support.snapshot_rig import HOST, contents, ram, resealed, unsealed

from vmm import ConfigError, ImageError, VmmError
from vmm.host.identity import HostIdentity
from vmm.machine import snapshot_file
from vmm.machine.snapshot_file import check_save_path, load, save
from vmm.machine.snapshot_form import SIZE_MAX
from vmm.ram_image import RamImage

TESTS = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def on_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostIdentity, "here", lambda: HOST)


def bytes_of(image: RamImage) -> bytes:
    return os.pread(image.fd, image.size, 0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["memory", "memory.zst"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    compress = request.param == "memory.zst"
    if compress and sys.version_info < (3, 14):
        pytest.importorskip("zstandard")
    save(tmp_path / "s", contents(), ram(), compress=compress)
    return tmp_path / "s"


def test_what_was_saved_is_loaded(saved: Path) -> None:
    got, image, _ = load(saved)
    assert got.config == contents().config
    assert bytes_of(image) == bytes_of(ram())
    assert image.allocated() <= 65 * 4096  # with the same holes


def test_it_is_the_users_only(saved: Path) -> None:
    assert stat.S_IMODE(saved.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in saved.iterdir()] == [
        0o600
    ] * 2


def test_nobody_can_write_to_loaded_memory(saved: Path) -> None:
    _, image, _ = load(saved)
    with pytest.raises(PermissionError):
        os.pwrite(image.fd, b"x", 0)
    for file in saved.iterdir():
        os.truncate(file, 0)
    assert bytes_of(image) == bytes_of(ram())


def test_memory_is_sparse(tmp_path: Path) -> None:
    save(tmp_path / "s", contents(), ram(), compress=False)
    found = (tmp_path / "s/memory").stat()
    assert (found.st_size, found.st_blocks * 512 <= 66 * 4096) == (16 << 20, True)


@pytest.mark.parametrize("first", [False, True])
def test_a_snapshot_takes_the_place_of_another(tmp_path: Path, first: bool) -> None:
    if first and sys.version_info < (3, 14):
        pytest.importorskip("zstandard")
    save(tmp_path / "s", contents(), ram(b"old"), compress=first)
    save(tmp_path / "s", contents(), ram(b"new"), compress=False)
    assert bytes_of(load(tmp_path / "s")[1])[:3] == b"new"
    assert names(tmp_path) == ["s"]
    assert names(tmp_path / "s") == ["memory", "state.json"]


def test_an_empty_folder_is_taken_and_a_link_followed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    save(f"{tmp_path}/link/", contents(), ram(), compress=False)
    load(tmp_path / "empty")
    assert (tmp_path / "link").is_symlink()


def test_a_file_system_that_can_not_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(snapshot_file, "exchange", refuse)
    for mark in (b"old", b"new"):
        save(tmp_path / "s", contents(), ram(mark), compress=False)
    assert bytes_of(load(tmp_path / "s")[1])[:3] == b"new"
    assert names(tmp_path) == ["s"]


@pytest.mark.parametrize("there", ["file", "folder", "snapshot with more", "bad state"])
def test_what_is_no_snapshot_is_not_replaced(tmp_path: Path, there: str) -> None:
    path = tmp_path / "s"
    if there == "file":
        path.write_text("precious")
    elif there == "snapshot with more":
        save(path, contents(), ram(), compress=False)
        (path / "precious").touch()
    else:
        path.mkdir()
        (path / ("state.json" if there == "bad state" else "precious")).touch()
    before = names(tmp_path), path.stat().st_ino
    said = "is no snapshot, and isn't replaced by one"
    with pytest.raises(ConfigError, match=said):
        save(path, contents(), ram(), compress=False)
    with pytest.raises(ConfigError, match=said):
        check_save_path(path)
    assert (names(tmp_path), path.stat().st_ino) == before


@pytest.mark.parametrize(
    ("path", "said"),
    [("", "names no folder"), ("/", "names no folder"), ("no/s", "No such file")],
)
def test_where_nothing_can_be_saved(
    path: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        check_save_path(path)
    with pytest.raises(VmmError, match=said):
        save(path, contents(), ram(), compress=False)


def test_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    save(path, contents(), ram(b"old"), compress=False)
    image = ram(b"new", pages=1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(VmmError, match="can't be saved: File too large"):
            save(path, contents(), image, compress=False)
        with pytest.raises(VmmError, match="can't be saved: File too large"):
            save(tmp_path / "t", contents(), image, compress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["s"]
    assert bytes_of(load(path)[1])[:3] == b"old"


def test_an_interrupt_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RamImage, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "s", contents(), ram(), compress=False)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda s: os.truncate(s / "memory", 5),
            "memory hasn't got the 16777216",
        ),
        (lambda s: os.truncate(s / "memory", 1 << 40), "memory hasn't got the"),
        (lambda s: (s / "memory").unlink(), "it has no memory.zst"),
        (lambda s: (s / "state.json").unlink(), "it has no state.json"),
        (lambda s: os.truncate(s / "state.json", 99), "its state.json is no state"),
        (lambda s: os.truncate(s / "state.json", SIZE_MAX + 1), "more than 16 MiB"),
        (lambda s: replaced(s / "memory", os.mkfifo), "its memory is no file"),
        (lambda s: replaced(s / "memory", os.mkdir), "its memory is no file"),
        (lambda s: replaced(s / "state.json", link_away), "Too many levels"),
        (lambda s: (s / "memory").rename(s / "memory.zst"), "memory.zst is damaged"),
        (lambda s: replaced(s, Path.touch), "Not a directory"),
    ],
)
def test_a_damaged_one_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "s"
    save(path, contents(), ram(), compress=False)
    if "damaged" in said and sys.version_info < (3, 14):
        pytest.importorskip("zstandard")
    damage(path)
    with pytest.raises(ImageError, match=said) as caught:
        load(path)
    assert str(caught.value).startswith(f"snapshot {str(path)!r}: ")
    assert caught.value.exit_code == 2


def test_what_is_wrong_is_told_in_a_line_of_some_length(tmp_path: Path) -> None:
    save(tmp_path / "s", contents(), ram(), compress=False)
    file = tmp_path / "s/state.json"
    state = unsealed(file.read_bytes())
    state["config"]["memory"] = "x" * 100_000
    file.write_bytes(resealed(state))
    with pytest.raises(ImageError, match="memory: 'xxx") as caught:
        load(tmp_path / "s")
    assert len(str(caught.value)) < 1000


def replaced(path: Path, by: Callable[[Path], object]) -> None:
    path.rename(path.parent.parent / "gone")
    by(path)


def link_away(path: Path) -> None:
    path.symlink_to(path.parent.parent / "gone")


def test_ram_that_the_host_has_not_got_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "s", contents(), ram(pages=600), compress=False)
    monkeypatch.setattr("vmm.ram_image.available_memory", lambda: 2 << 20)
    with pytest.raises(VmmError, match=r"has 2 MiB of memory left, and .* takes 2"):
        load(tmp_path / "s")


def test_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"snapshot '.*/s': No such file or directory"):
        load(tmp_path / "s")


@pytest.mark.parametrize("saved", ["memory.zst"], indirect=True)
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),  # its check sum
        lambda data: b"",
    ],
)
def test_damaged_compressed_memory_is_refused(
    saved: Path, change: Callable[[bytearray], bytes]
) -> None:
    data = bytearray((saved / "memory.zst").read_bytes())
    (saved / "memory.zst").write_bytes(change(data))
    with pytest.raises(ImageError, match=r"memory.zst (is damaged|ends after)"):
        load(saved)


@pytest.mark.parametrize("saved", ["memory.zst"], indirect=True)
def test_compressed_memory_that_the_host_has_not_got_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zstd = sys.modules["vmm.machine.snapshot_zstd"]
    monkeypatch.setattr(zstd, "available_memory", lambda: 2 << 20)
    with pytest.raises(VmmError, match="has no memory for 16 MiB of guest RAM"):
        load(saved)


@pytest.mark.parametrize("saved", ["memory.zst"], indirect=True)
@pytest.mark.parametrize(("memory", "said"), [("8M", "more than"), ("32M", "ends")])
def test_compressed_memory_of_another_size_is_refused(
    saved: Path, memory: str, said: str
) -> None:
    state = unsealed((saved / "state.json").read_bytes())
    state["config"]["memory"] = int(memory[:-1]) << 20
    (saved / "state.json").write_bytes(resealed(state))
    with pytest.raises(ImageError, match=said):
        load(saved)


def test_without_zstd_one_is_told_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.delitem(sys.modules, "vmm.machine.snapshot_zstd", raising=False)
    monkeypatch.delattr("vmm.machine.snapshot_zstd", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'minivmm\[zstd\]'"):
        save(tmp_path / "s", contents(), ram(), compress=True)
    assert names(tmp_path) == []


SAVER = """
import sys
from itertools import cycle
from support.snapshot_rig import HOST, contents, ram
from vmm.host.identity import HostIdentity
from vmm.machine.snapshot_file import save
HostIdentity.here = lambda: HOST
images = [ram(b"a" * 4096), ram(b"b" * 4096)]
print(flush=True)
for number in cycle((0, 1)):
    save(sys.argv[1], contents(append=f"{number}"), images[number], compress=False)
"""


def test_a_killed_saver_leaves_a_whole_one_or_none(tmp_path: Path) -> None:
    path = tmp_path / "s"
    command = [sys.executable, "-c", SAVER, str(path)]
    found = 0
    for number in range(cases(20, 200)):
        with subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE) as saver:
            assert saver.stdout is not None
            saver.stdout.readline()
            time.sleep((number % 20) * 0.004)
            saver.send_signal(signal.SIGKILL)
        if not path.exists():
            continue
        found += 1
        got, image, _ = load(path)
        mark = b"ab"[int(got.config.append) :][:1]
        assert bytes_of(image) == bytes_of(ram(mark * 4096))
    assert found
    save(path, contents(), ram(), compress=False)
    assert names(tmp_path) == ["s"]  # what they have left is gone


def test_a_living_savers_folder_is_no_leftover(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def often() -> None:
        for _ in range(30):
            save(path, contents(), ram(pages=1), compress=False)

    failed: list[BaseException] = []

    def kept() -> None:
        try:
            often()
        except BaseException as error:
            failed.append(error)

    others = [threading.Thread(target=kept) for _ in range(3)]
    for other in others:
        other.start()
    while any(other.is_alive() for other in others):
        if path.exists():
            load(path)
    for other in others:
        other.join()
    assert failed == []
    assert names(tmp_path) == ["s"]
