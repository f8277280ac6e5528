"""GuestFiles: host files as members of an initramfs."""

import os
import stat
from pathlib import Path
from unittest import mock

import pytest

from vmm.boot.layout import MIB
from vmm.errors import ConfigError
from vmm.guest import cpio
from vmm.guest.files import GuestFiles, split_spec


@pytest.fixture
def files() -> GuestFiles:
    return GuestFiles(MIB)


def listed(files: GuestFiles) -> dict[str, bytes]:
    return {entry.path: entry.data for entry in files.entries}


@pytest.mark.parametrize(
    ("spec", "pair"),
    [
        ("dir/prog", ("dir/prog", "/prog")),
        ("prog:/bin/p", ("prog", "/bin/p")),
        ("a:b", ("a:b", "/a:b")),
        ("a:b:/c", ("a:b", "/c")),
    ],
)
def test_guest_path_follows_the_last_colon(spec: str, pair: tuple[str, str]) -> None:
    assert split_spec(spec) == pair


def test_a_directory_named_with_a_slash_or_a_dot_has_its_name(tmp_path: Path) -> None:
    assert split_spec(f"{tmp_path}/")[1] == f"/{tmp_path.name}"
    assert split_spec(f"{tmp_path}/.")[1] == f"/{tmp_path.name}"


def test_file_keeps_content_and_permissions(files: GuestFiles, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"prog")
    (tmp_path / "p").chmod(0o751)
    files.add(str(tmp_path / "p"), "/p")
    (entry,) = files.entries
    assert (entry.path, entry.data) == ("p", b"prog")
    assert entry.mode == stat.S_IFREG | 0o751


def test_parents_come_first_and_once(files: GuestFiles, tmp_path: Path) -> None:
    (tmp_path / "p").touch()
    files.add(str(tmp_path / "p"), "/usr/bin/p")
    files.add(str(tmp_path / "p"), "/usr/bin/q")
    assert list(listed(files)) == ["usr", "usr/bin", "usr/bin/p", "usr/bin/q"]
    assert isinstance(files.entries[0], cpio.Parent)


def test_file_into_a_directory_keeps_its_name(
    files: GuestFiles, tmp_path: Path
) -> None:
    (tmp_path / "p").touch()
    files.add(str(tmp_path / "p"), "/bin/")
    assert list(listed(files)) == ["bin", "bin/p"]


def test_tmp_stays_everybodys(files: GuestFiles, tmp_path: Path) -> None:
    (tmp_path / "p").touch()
    files.add(str(tmp_path / "p"), "/tmp/p")
    assert files.entries[0].mode == stat.S_IFDIR | 0o1777


def test_directory_comes_with_all_that_is_in_it(
    files: GuestFiles, tmp_path: Path
) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/f").write_bytes(b"f")
    (tmp_path / "tree/link").symlink_to("sub/f")
    files.add(str(tmp_path / "tree"), "/lib/t")
    assert listed(files) == {
        "lib": b"",
        "lib/t": b"",
        "lib/t/link": b"sub/f",
        "lib/t/sub": b"",
        "lib/t/sub/f": b"f",
    }


def test_directory_may_be_laid_over_the_root(files: GuestFiles, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/motd").write_bytes(b"hi")
    files.add(str(tmp_path), "/")
    assert listed(files) == {"etc": b"", "etc/motd": b"hi"}


def test_symlink_that_is_named_is_followed(files: GuestFiles, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"prog")
    (tmp_path / "link").symlink_to("p")
    files.add(str(tmp_path / "link"), "/p")
    assert listed(files) == {"p": b"prog"}


def test_symlink_to_the_directory_above_stays_a_symlink(
    files: GuestFiles, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/up").symlink_to("../tree")
    files.add(str(tmp_path / "tree"), "/t")
    assert listed(files) == {"t": b"", "t/up": b"../tree"}


def test_name_that_is_no_utf8_is_kept(files: GuestFiles, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).touch()
    files.add(str(tmp_path), "/t")
    assert b"t/\xff\0" in cpio.write(files.entries)


# What is refused


def test_missing_file(files: GuestFiles, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"files: '.*/p': no such file"):
        files.add(str(tmp_path / "p"), "/p")


def test_loop_of_symlinks(files: GuestFiles, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match="too many levels of symbolic links"):
        files.add(str(tmp_path / "loop"), "/loop")


def test_directory_inside_itself(
    files: GuestFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a bind mount makes it, which would take root."""
    (tmp_path / "sub").mkdir()
    real, status = os.stat, os.stat(tmp_path)
    monkeypatch.setattr(
        os, "stat", lambda path: status if str(path).endswith("sub") else real(path)
    )
    with pytest.raises(ConfigError, match=r"sub' is a directory that is inside itself"):
        files.add(str(tmp_path), "/t")


def test_device_node(files: GuestFiles) -> None:
    with pytest.raises(ConfigError, match="'/dev/null': is a device"):
        files.add("/dev/null", "/null")


def test_fifo_in_a_directory(files: GuestFiles, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match=r"fifo': is a pipe"):
        files.add(str(tmp_path), "/t")


def test_directory_of_any_depth(tmp_path: Path) -> None:
    folders = [f"{tmp_path}{'/d' * depth}" for depth in range(1, 1501)]
    for folder in folders:
        os.mkdir(folder)
    files = GuestFiles(8 * MIB)
    files.add(str(tmp_path), "/")
    for folder in reversed(folders):  # what cleans up after us is recursive
        os.rmdir(folder)
    assert [entry.path for entry in files.entries[:3]] == ["d", "d/d", "d/d/d"]
    assert len(files.entries) == 1500


def test_file_that_waits_for_more_is_refused(
    files: GuestFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/kmsg."""
    (tmp_path / "kmsg").touch()
    monkeypatch.setattr(os, "read", mock.Mock(side_effect=[b"<6>x", BlockingIOError]))
    with pytest.raises(ConfigError, match="kmsg': has no end: it waits for more"):
        files.add(str(tmp_path / "kmsg"), "/kmsg")


def test_file_of_proc_is_read_though_it_says_it_is_empty(files: GuestFiles) -> None:
    files.add("/proc/version", "/v")
    assert listed(files)["v"].startswith(b"Linux version ")


def test_empty_files_take_room_as_well(tmp_path: Path) -> None:
    for index in range(100):
        (tmp_path / str(index)).touch()
    GuestFiles(12_000).add(str(tmp_path), "/")
    with pytest.raises(ConfigError, match="don't fit memory"):
        GuestFiles(11_000).add(str(tmp_path), "/")


def test_guest_path_out_of_the_root(files: GuestFiles, tmp_path: Path) -> None:
    (tmp_path / "p").touch()
    with pytest.raises(ConfigError, match="no path relative to the root"):
        files.add(str(tmp_path / "p"), "/../p")


def test_file_in_place_of_the_root(files: GuestFiles, tmp_path: Path) -> None:
    (tmp_path / "p").touch()
    files.add(str(tmp_path / "p"), "/")
    assert list(listed(files)) == ["p"]


def test_more_than_the_memory(files: GuestFiles, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(bytes(MIB * 3 // 4))
    files.add(str(tmp_path / "p"), "/p")
    with pytest.raises(ConfigError, match="don't fit memory of 1M: pass --memory"):
        files.add(str(tmp_path / "p"), "/q")
