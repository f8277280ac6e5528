"""newc archives: what the kernel reads is what was written."""

import shutil
import stat
import subprocess

import pytest

from vmm.guest import cpio

CPIO = shutil.which("cpio")


def fields(archive: bytes) -> dict[str, int]:
    """Return the header fields of the first member, as buffer-format.rst has them."""
    names = (
        "ino mode uid gid nlink mtime filesize devmajor devminor "
        "rdevmajor rdevminor namesize check"
    ).split()
    return {n: int(archive[6 + 8 * i : 14 + 8 * i], 16) for i, n in enumerate(names)}


def test_member_starts_with_magic_070701_and_110_byte_header() -> None:
    archive = cpio.write([cpio.file("init", b"content")])
    assert archive.startswith(b"070701")
    assert archive[110:115] == b"init\0"


def test_name_and_data_are_padded_to_four_bytes() -> None:
    archive = cpio.write([cpio.file("init", b"content")])
    assert archive[115:117] == b"\0"[:1] + b"c"
    assert archive[124:130] == b"070701"


def test_file_header_holds_mode_and_size() -> None:
    header = fields(cpio.write([cpio.file("init", b"content", 0o755)]))
    assert header["mode"] == stat.S_IFREG | 0o755
    assert header["filesize"] == 7


def test_device_node_holds_its_numbers_and_needs_no_root() -> None:
    header = fields(cpio.write([cpio.character_device("dev/console", 5, 1)]))
    assert stat.S_ISCHR(header["mode"])
    assert (header["rdevmajor"], header["rdevminor"]) == (5, 1)


def test_owner_and_time_are_zero() -> None:
    header = fields(cpio.write([cpio.directory("etc")]))
    assert (header["uid"], header["gid"], header["mtime"]) == (0, 0, 0)


def test_directory_has_two_links() -> None:
    assert fields(cpio.write([cpio.directory("etc")]))["nlink"] == 2


def test_archive_ends_with_trailer_and_whole_blocks() -> None:
    archive = cpio.write([])
    assert archive[110:121] == b"TRAILER!!!\0"
    assert len(archive) == 512


def test_same_entries_give_same_bytes() -> None:
    entries = [cpio.directory("etc"), cpio.file("etc/guest.sh", b"exit 3\n")]
    assert cpio.write(entries) == cpio.write(list(entries))


@pytest.mark.parametrize("path", ["", "/init", "etc/", "a//b", "../init", "a\0b"])
def test_path_that_is_not_relative_to_the_root_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no path relative to the root"):
        cpio.file(path, b"")


def test_member_named_as_the_trailer_is_refused() -> None:
    with pytest.raises(ValueError, match="end the archive"):
        cpio.file("TRAILER!!!", b"")


def test_path_that_the_kernel_would_skip_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 4095"):
        cpio.directory("x" * 4096)


def test_parent_goes_through_a_symlink_in_its_place() -> None:
    """The kernel looks a name up as lstat(2) does: a slash at its end follows links."""
    archive = cpio.write([cpio.parent("bin")])
    assert fields(archive)["mode"] == stat.S_IFDIR | 0o755
    assert archive[110:115] == b"bin/\0"


@pytest.mark.skipif(CPIO is None, reason="no cpio here: its reading is not compared")
def test_cpio_lists_every_kind_of_member() -> None:
    archive = cpio.write(
        [
            cpio.directory("dev"),
            cpio.character_device("dev/ttyS0", 4, 64),
            cpio.file("hello", b"x" * 5),
            cpio.symlink("link", "hello"),
        ]
    )
    listing = subprocess.run(
        ["cpio", "-itvn", "--quiet"], input=archive, capture_output=True, check=True
    ).stdout.decode()
    words = [" ".join(line.split()) for line in listing.splitlines()]
    assert words[0].startswith("drwxr-xr-x 2 0 0 0 Jan 1 1970 dev")
    assert words[1].startswith("crw------- 1 0 0 4, 64 Jan 1 1970 dev/ttyS0")
    assert words[2].startswith("-rw-r--r-- 1 0 0 5 Jan 1 1970 hello")
    assert words[3].startswith("lrwxrwxrwx 1 0 0 5 Jan 1 1970 link -> hello")
