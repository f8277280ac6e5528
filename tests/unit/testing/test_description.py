"""What a booted guest is known by: all that would make it another one."""

import os
from pathlib import Path
from typing import Any

import pytest

from vmm.devices.device_io import DeviceIo
from vmm.errors import ConfigError
from vmm.testing import description
from vmm.testing.description import FileHashes, described


class Plain(DeviceIo):
    """A device that keeps nothing."""


class Other(DeviceIo):
    """Another."""


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description, "_host", lambda: ("this",))


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(b"kernel")
    return path


def key(kernel: Path, **marked: object) -> str:
    return described({"ready": "up", **marked}, {"kernel": kernel}).key(FileHashes())


@pytest.mark.parametrize(
    "marked",
    [
        {"memory": "64M"},
        {"append": "quiet"},
        {"cpus": 2},
        {"ready": "later"},
        {"debugcon": "capture"},
        {"console_device": "virtio"},
        {"ports": {"log": "capture"}},
        {"rng": True},
        {"balloon": 0},
        {"devices": [Plain]},
    ],
    ids=str,
)
def test_what_makes_another_guest_makes_another_key(
    kernel: Path, marked: dict[str, Any]
) -> None:
    assert key(kernel, **marked) != key(kernel)
    assert key(kernel, **marked) == key(kernel, **marked)


def test_what_is_the_hosts_alone_makes_none(kernel: Path) -> None:
    assert key(kernel, timeout=3, on_panic="pause", serial="null") == key(kernel)
    assert key(kernel, debugcon="null") == key(kernel, debugcon="capture")
    logs = ({"log": "null"}, {"log": "capture"})
    assert key(kernel, ports=logs[0]) == key(kernel, ports=logs[1])


def test_an_image_is_known_by_its_content(kernel: Path) -> None:
    before = key(kernel)
    kernel.write_bytes(b"Kernel")
    assert key(kernel) != before
    kernel.write_bytes(b"kernel")
    assert key(kernel) == before


def test_a_disk_is_known_by_its_size_and_time(kernel: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(512))
    before = key(kernel, disks=f"{disk},cow")
    assert before != key(kernel)
    assert key(kernel, disks=f"{disk},cow") == before
    assert key(kernel, disks=f"{disk},ro") != before
    os.utime(disk, ns=(1, 1))
    assert key(kernel, disks=f"{disk},cow") != before


def test_another_host_and_another_device_make_another(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert key(kernel, devices=[Plain]) != key(kernel, devices=[Other])
    before = key(kernel)
    monkeypatch.setattr(description, "_host", lambda: ("that",))
    assert key(kernel) != before


def test_what_is_no_device_is_named(kernel: Path) -> None:
    with pytest.raises(ConfigError, match="devices: a dict is no DeviceIo"):
        key(kernel, devices=[dict])


def test_a_file_is_read_once_until_it_changes(
    kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(description, "_RACY_NS", -(10**9))  # as if it were old
    store = tmp_path / "hashes.json"
    digest = FileHashes(store).of(str(kernel))
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", pytest.fail)
        assert FileHashes(store).of(str(kernel)) == digest
    status = kernel.stat()
    kernel.write_bytes(b"Kernel")
    os.utime(kernel, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert FileHashes(store).of(str(kernel)) != digest


def test_a_young_file_is_read_again(kernel: Path, tmp_path: Path) -> None:
    """It may change twice within one tick of the clock that its times are by."""
    store = tmp_path / "hashes.json"
    FileHashes(store).of(str(kernel))
    assert not store.exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"/x": 3}'])
def test_damaged_hashes_are_made_anew(kernel: Path, tmp_path: Path, text: str) -> None:
    store = tmp_path / "hashes.json"
    store.write_text(text)
    assert FileHashes(store).of(str(kernel)) == FileHashes().of(str(kernel))


def test_without_an_agent_something_has_to_be_ready(kernel: Path) -> None:
    assert described({}, {"kernel": kernel}).config.agent
    assert not described({"ready": "up"}, {}).config.agent
    assert described({"ready": "up", "agent": True}, {}).config.agent
    assert described({"ready": None}, {"ready": "up"}).config.agent
    with pytest.raises(ConfigError, match="agent: without one, say what the guest"):
        described({"agent": False}, {})
