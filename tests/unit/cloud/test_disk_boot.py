"""Kernel, initrd and command line out of images that mke2fs and sfdisk have made."""

import os
import shutil
import subprocess
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.cloud_image import MIB, partitioned, program
from support.open_fds import open_fds

from vmm.cloud import disk_boot, reader
from vmm.cloud.disk_boot import read_disk_boot
from vmm.disk.config import DiskConfig
from vmm.disk.opening import open_backend
from vmm.errors import ConfigError
from vmm.vhost_user.qcow2 import new_overlay

MENU = b"""\
menuentry 'Ours' {
  linux /boot/vmlinuz root=/dev/vda1 ro
  initrd /boot/early /boot/initrd
}
"""
KERNEL = os.urandom(3 * MIB)
FILES = {
    "/boot/grub/grub.cfg": MENU,
    "/boot/vmlinuz": KERNEL,
    "/boot/early": b"early",
    "/boot/initrd": b"initrd",
}
RAM = 64 * MIB


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    program("grub-fstest", "grub-common")
    program("qemu-img", "qemu-utils")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return partitioned(tmp_path_factory.mktemp("image") / "it's (one), too.img", FILES)


def read(config: DiskConfig) -> tuple[bytes, bytes | None, str]:
    before = open_fds()
    with ExitStack() as stack:
        found = read_disk_boot(config, RAM, stack)
        kernel = found.kernel.read(0, found.kernel.size)
        file = found.initrd
        initrd = None if file is None else file.read(0, file.size)
    assert open_fds() == before
    return kernel, initrd, found.cmdline


def refusal(config: DiskConfig, memory: int = RAM) -> str:
    before = open_fds()
    with pytest.raises(ConfigError) as error, ExitStack() as stack:
        read_disk_boot(config, memory, stack)
    assert open_fds() == before
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_of_grubs_entry_are_read(image: Path) -> None:
    kernel, initrd, cmdline = read(DiskConfig(path=str(image)))
    assert kernel == KERNEL
    assert initrd == b"early".ljust(12, b"\0") + b"initrd"
    assert cmdline == "root=/dev/vda1 ro"


def test_qcow2_image_is_read_and_its_copy_goes(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qcow2 = tmp_path / "image.qcow2"
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(image), str(qcow2)],
        check=True,
        timeout=120,
    )
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    assert read(DiskConfig(path=str(qcow2)))[0] == KERNEL
    assert not list(folder.iterdir())


def test_boot_partition_of_its_own_has_paths_without_boot(tmp_path: Path) -> None:
    menu = b"menuentry x {\nlinux /vmlinuz root=/dev/vda2\n}\n"
    files = {"/grub/grub.cfg": menu, "/vmlinuz": b"kernel"}
    path = partitioned(tmp_path / "image.img", files)
    assert read(DiskConfig(path=str(path))) == (b"kernel", None, "root=/dev/vda2")


def test_boot_loader_entries_are_read_where_grub_says_so(tmp_path: Path) -> None:
    entry = b"linux /vmlinuz\ninitrd /initrd\noptions $kernelopts rhgb\n"
    files = {
        "/grub2/grub.cfg": b'set kernelopts="root=UUID=1 ro"\nblscfg\n',
        "/loader/entries/id-6.9.conf": b"linux /old\n",
        "/loader/entries/id-6.10.conf": entry,
        "/vmlinuz": b"kernel",
        "/initrd": b"initrd",
    }
    path = partitioned(tmp_path / "image.img", files)
    found = read(DiskConfig(path=str(path)))
    assert found == (b"kernel", b"initrd", "root=UUID=1 ro rhgb")


def test_entries_without_grub_are_enough(tmp_path: Path) -> None:
    files = {"/loader/entries/x.conf": b"linux /k\noptions a\n", "/k": b"kernel"}
    path = partitioned(tmp_path / "image.img", files)
    assert read(DiskConfig(path=str(path))) == (b"kernel", None, "a")


def test_image_without_a_menu_is_refused(tmp_path: Path) -> None:
    path = partitioned(tmp_path / "image.img", {"/etc/hostname": b"x"})
    assert "no /boot/grub/grub.cfg" in refusal(DiskConfig(path=str(path)))


def test_image_of_noise_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.img"
    path.write_bytes(os.urandom(MIB))
    assert "no /boot/grub/grub.cfg" in refusal(DiskConfig(path=str(path)))


def test_menu_without_a_linux_is_refused(tmp_path: Path) -> None:
    files = {"/boot/grub/grub.cfg": b"menuentry x {\nchainloader +1\n}\n"}
    path = partitioned(tmp_path / "image.img", files)
    message = refusal(DiskConfig(path=str(path)))
    assert "/boot/grub/grub.cfg has no entry with a Linux kernel" in message


def test_kernel_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = partitioned(tmp_path / "image.img", {"/boot/grub/grub.cfg": MENU})
    assert "its kernel '/boot/vmlinuz' isn't there" in refusal(
        DiskConfig(path=str(path))
    )


def test_file_larger_than_ram_is_refused_before_it_is_read(image: Path) -> None:
    message = refusal(DiskConfig(path=str(image)), memory=MIB)
    assert f"'(loop0,1)/boot/vmlinuz' has more than {MIB} bytes" in message


@pytest.mark.parametrize("suffix", ["img", "qcow2"])
def test_overlay_that_stays_has_its_own_files(tmp_path: Path, suffix: str) -> None:
    """As after an upgrade: the image is what it was, and the guest isn't."""
    files = {"/loader/entries/x.conf": b"linux /k\noptions old\n", "/k": b"kernel"}
    path = partitioned(tmp_path / "raw.img", files)
    image = path.with_name(f"image.{suffix}")
    convert = ["qemu-img", "convert", "-f", "raw", "-O"]
    to = "raw" if suffix == "img" else suffix
    subprocess.run([*convert, to, str(path), str(image)], check=True, timeout=120)
    config = DiskConfig(path=str(image), cow=str(tmp_path / "overlay"))
    assert read(config)[2] == "old"
    assert not (tmp_path / "overlay").exists()
    at = path.read_bytes().index(b"linux /k\noptions old\n")
    write_to(config, at, b"linux /k\noptions new\n")
    assert read(config)[2] == "new"
    assert read(DiskConfig(path=str(image)))[2] == "old"


def write_to(config: DiskConfig, at: int, data: bytes) -> None:
    """As a guest does."""
    if config.is_served:
        new_overlay(str(config.cow), config.path)
        command = ["qemu-io", "-f", "qcow2", "-c", "write -s {} {} {}"]
        source = Path(f"{config.cow}.part")
        source.write_bytes(data)
        command[-1] = command[-1].format(source, at, len(data))
        subprocess.run([*command, str(config.cow)], check=True, timeout=120)
        return
    with closing(open_backend(config, print)) as disk:
        sector = memoryview(bytearray(512))
        start = at - at % 512
        disk.read([sector], start)
        sector[at - start : at - start + len(data)] = data
        disk.write([sector], start)
        disk.flush()


def test_image_that_qemu_refuses_is_refused_with_its_words(tmp_path: Path) -> None:
    path = tmp_path / "image.vdi"
    path.write_bytes(bytes(MIB))
    message = refusal(DiskConfig(path=str(path)))
    assert message.startswith(f"boot_from_disk: {str(path)!r}: ")
    assert "signature" in message


def test_image_that_is_not_there_is_refused(tmp_path: Path) -> None:
    message = refusal(DiskConfig(path=str(tmp_path / "none.img")))
    assert "No such file or directory" in message


def test_program_that_is_not_there_is_named_with_its_package(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    message = refusal(DiskConfig(path=str(image)))
    assert "takes grub-fstest, which isn't here: install grub-common" in message


def test_reader_without_an_end_is_ended(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged image may have it run in circles."""
    endless = tmp_path / "grub-fstest"
    endless.write_text("#!/bin/sh\nexec sleep 1000\n")
    endless.chmod(0o755)
    monkeypatch.setattr(reader, "_PROGRAMS", (str(endless),))
    monkeypatch.setattr(reader, "_TIMEOUT_S", 0.1)
    message = refusal(DiskConfig(path=str(image)))
    assert "can't be read within" in message


def test_file_that_is_read_in_part_is_refused(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a file system that is damaged."""
    damaged = tmp_path / "grub-fstest"
    damaged.write_text(
        '#!/bin/sh\ncase "$3" in */vmlinuz) head -c 1000 /dev/zero; exit 1; esac\n'
        f'exec {shutil.which("grub-fstest")} "$@"\n'
    )
    damaged.chmod(0o755)
    monkeypatch.setattr(reader, "_PROGRAMS", (str(damaged),))
    message = refusal(DiskConfig(path=str(image)))
    assert "its kernel '/boot/vmlinuz' isn't there, or is empty or damaged" in message


def test_all_partitions_are_looked_at() -> None:
    """Debian's system partition is the first of up to sixteen, Fedora's the third."""
    assert len(disk_boot._PLACES) == disk_boot.PARTITIONS_MAX
