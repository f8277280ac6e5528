"""Disks of a machine: what is opened, plugged in, resized, kept and let go."""

import errno
import os
from pathlib import Path

import pytest
from support.disk_rig import KIB, an_image, read, write

from vmm import ConfigError, VmmError
from vmm.config import MachineConfig
from vmm.devices.clock import VirtualClock
from vmm.devices.errors import Exhausted
from vmm.devices.virtio.blk import VIRTIO_BLK_F_RO, VirtioBlk
from vmm.devices.virtio.device import VirtioDevice
from vmm.disk.opening import Backend
from vmm.machine.disks import QUEUES_MAX, Disk, Disks


class Plugged:
    """The disks of a configuration, each plugged in."""

    def __init__(self, *texts: str, cpus: int = 1) -> None:
        self.told: list[str] = []
        self.devices: list[VirtioDevice] = []
        self.config = MachineConfig(disks=texts, cpus=cpus)
        self.disks = Disks(self.config, self.told.append)
        self.disks.plug(self.devices.append, VirtualClock())


def backend(disks: Disks, index: int = 0) -> Backend:
    disk = disks.all[index]
    assert isinstance(disk, Disk)
    return disk.backend


@pytest.fixture
def image(tmp_path: Path) -> Path:
    an_image(tmp_path / "disk.img")
    return tmp_path / "disk.img"


def test_each_is_a_device_by_the_name_of_its_image(image: Path) -> None:
    plugged = Plugged(f"{image},cow,serial=one", f"{image},ro,cache=writethrough")
    first, second = plugged.devices
    assert isinstance(first, VirtioBlk)
    assert [device.name for device in plugged.devices] == [f"disk '{image}'"] * 2
    assert not first.features >> VIRTIO_BLK_F_RO & 1
    assert second.features >> VIRTIO_BLK_F_RO & 1
    assert [device.config()[32] for device in plugged.devices] == [1, 0]


@pytest.mark.parametrize(("cpus", "queues"), [(1, 1), (3, 3), (100, QUEUES_MAX)])
def test_each_vcpu_has_a_queue(image: Path, cpus: int, queues: int) -> None:
    (device,) = Plugged(f"{image},ro", cpus=cpus).devices
    assert len(device.queues) == queues


def test_what_one_can_not_have_is_let_go_for_all(image: Path) -> None:
    config = MachineConfig(disks=[str(image), "none.img"])
    with pytest.raises(ConfigError, match=r"^disks: 'none.img': No such file"):
        Disks(config, pytest.fail)
    Plugged(str(image))  # the lock is free


def test_a_device_without_a_place_is_told_by_its_image(image: Path) -> None:
    def plug(_: VirtioDevice) -> None:
        raise Exhausted("no slot is free")

    disks = Disks(MachineConfig(disks=f"{image},ro"), pytest.fail)
    with pytest.raises(ConfigError, match=r"disk.img' has no place: no slot is free"):
        disks.plug(plug, VirtualClock())


# Resize


def test_a_resize_is_the_images(image: Path) -> None:
    (disk,) = Plugged(str(image)).disks.all
    disk.resize(128 * KIB)
    assert disk.size == image.stat().st_size == 128 * KIB
    os.truncate(image, 32 * KIB)
    disk.resize()
    assert disk.size == 32 * KIB


@pytest.mark.parametrize("size", [0, -512, 513])
def test_a_size_that_no_disk_has_is_refused(image: Path, size: int) -> None:
    (disk,) = Plugged(str(image)).disks.all
    with pytest.raises(ConfigError, match="is not a multiple of 512 above 0"):
        disk.resize(size)
    assert image.stat().st_size == 64 * KIB


def test_what_can_not_be_resized_says_so(image: Path) -> None:
    read_only, overlay = Plugged(f"{image},ro", f"{image},cow").disks.all
    with pytest.raises(ConfigError, match="isn't ours to resize"):
        read_only.resize(512)
    with pytest.raises(ConfigError, match="can't become smaller"):
        overlay.resize(512)
    overlay.resize()
    assert overlay.size == 64 * KIB


# Snapshots


def test_a_clone_has_what_was_and_goes_its_own_way(image: Path) -> None:
    plugged = Plugged(f"{image},cow", f"{image},ro")
    write(backend(plugged.disks), 0, b"1" * 512)
    frozen = plugged.disks.freeze()
    clone = Disks(plugged.config, pytest.fail, frozen)
    write(backend(clone, 0), 0, b"2" * 512)
    assert read(backend(plugged.disks), 0, 512) == b"1" * 512
    assert read(backend(clone, 1)) == image.read_bytes()
    write(backend(plugged.disks), 0, b"3" * 512)
    plugged.disks.become(frozen)
    assert read(backend(plugged.disks), 0, 512) == b"1" * 512


def test_none_is_put_back_where_one_can_not_be(image: Path, tmp_path: Path) -> None:
    plugged = Plugged(f"{image},cow", f"{image},cow={tmp_path}/over")
    first = backend(plugged.disks)
    frozen = plugged.disks.freeze()
    write(first, 0, b"1" * 512)
    with pytest.raises(VmmError, match="an overlay that stays"):
        plugged.disks.become(frozen)
    assert read(first, 0, 512) == b"1" * 512
    clone = Disks(plugged.config, pytest.fail, frozen)
    write(backend(clone, 1), 0, b"2" * 512)
    clone.become(frozen)
    assert read(backend(clone, 1)) == image.read_bytes()


def test_one_that_is_written_in_its_place_is_in_no_snapshot(image: Path) -> None:
    with pytest.raises(VmmError, match="written to in its place"):
        Plugged(str(image)).disks.freeze()


def test_what_the_host_has_no_room_for_is_said(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugged = Plugged(f"{image},cow={tmp_path}/over")
    monkeypatch.setenv("TMPDIR", "/no/where")
    with pytest.raises(VmmError, match=r"disk.img': No such file"):
        plugged.disks.freeze()
    frozen = Plugged(f"{image},ro").disks.freeze()
    config = MachineConfig(disks=f"{image},cow")
    with pytest.raises(ConfigError, match=r"disk.img': No such file"):
        Disks(config, pytest.fail, frozen)


# The end


def test_what_is_closed_is_free_and_on_the_disk(image: Path, tmp_path: Path) -> None:
    text = f"{image},cow={tmp_path}/over"
    plugged = Plugged(text)
    write(backend(plugged.disks), 0, b"k" * 512)
    plugged.disks.close()
    plugged.disks.close()
    assert plugged.told == []
    assert read(backend(Plugged(text).disks), 0, 512) == b"k" * 512


def test_what_can_not_be_kept_at_the_end_is_told(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    plugged = Plugged(f"{image},cow={tmp_path}/over")
    monkeypatch.setattr(os, "fdatasync", full)
    plugged.disks.close()
    assert plugged.told == [f"disk '{image}': No space left on device"]
