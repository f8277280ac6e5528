"""Linux's drivers at devices that other processes serve."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.guests import DEADLINE, built, kernel, wait_until, with_script
from support.qcow2_image import make_qcow2

from vmm import ConfigError, ExitReason, Machine, MachineConfig
from vmm.errors import VmmError
from vmm.machine.served_disk import ServedDisk
from vmm.vhost_user.device import VhostUserDevice

pytestmark = pytest.mark.linux

ROOT = Path(__file__).parents[2]
WAYS = ("pci", "mmio")
MIB = 1 << 20
ENTROPY = 4


def config(**settings: Any) -> MachineConfig:  # noqa: ANN401
    return MachineConfig(
        kernel=kernel("full"), append="quiet", timeout=DEADLINE, **settings
    )


@contextmanager
def served(folder: Path, device: str = "CountingRng") -> Iterator[str]:
    """The path of a socket behind which a process of its own serves `device`."""
    path = str(folder / "device.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "vmm.vhost_user"),
                *(f"support.vhost_devices:{device}", "--fd", str(listener.fileno())),
            ],
            cwd=ROOT / "tests",
            env={"PYTHONPATH": str(ROOT)},
            pass_fds=[listener.fileno()],
        )
    try:
        yield path
    finally:
        process.terminate()
        process.wait(DEADLINE)


def numbers_of(path: str) -> VhostUserDevice:
    return VhostUserDevice(ENTROPY, path, queue_sizes=(64,), name="the numbers")


READ = "dd if=/dev/hwrng bs=64 count=4 2>/dev/null"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("device", ["CountingRng", "PackedRng"])
def test_linux_reads_what_a_process_of_its_own_gives_it(
    tmp_path: Path, way: str, device: str
) -> None:
    with served(tmp_path, device) as path:
        settings = config(transport=way, command=["sh", "-c", READ], capture="capture")
        with Machine(settings) as machine:
            machine.plug(numbers_of(path))
            result = machine.run()
    assert result.exit_code == 0
    assert result.output is not None
    assert len(result.output) == 256
    numbers = [int(result.output[at : at + 8]) for at in range(0, 256, 8)]
    assert numbers == list(range(numbers[0], numbers[0] + 32))


@pytest.mark.parametrize("way", WAYS)
def test_machine_that_boots_again_uses_the_same_backend(
    tmp_path: Path, way: str
) -> None:
    script = f"{READ} | head -c 8; echo; reboot -f"
    with served(tmp_path) as path:
        settings = config(
            transport=way,
            initrd=with_script(tmp_path, script),
            on_reset="restart",
            serial="null",
            tee="capture",
        )
        with Machine(settings) as machine:
            machine.plug(numbers_of(path))
            machine.start()
            for _ in range(3):
                machine.console.expect(re.compile(rb"\d{8}\r?\n"), DEADLINE)
            machine.stop()
            assert machine.wait().resets >= 2
            assert machine.warnings == []


def test_pause_in_the_midst_loses_nothing(tmp_path: Path) -> None:
    script = "while dd if=/dev/hwrng bs=64 count=4 2>/dev/null; do echo; done"
    with served(tmp_path) as path:
        settings = config(
            initrd=with_script(tmp_path, script), serial="null", tee="capture"
        )
        with Machine(settings) as machine:
            machine.plug(numbers_of(path))
            machine.start()
            for _ in range(10):
                machine.console.expect(re.compile(rb"\d{256}\r?\n"), DEADLINE)
                machine.pause()
                machine.resume()
            machine.console.expect(re.compile(rb"\d{256}\r?\n"), DEADLINE)
            machine.stop()
            machine.wait()


def test_snapshot_is_refused_by_name(tmp_path: Path) -> None:
    with served(tmp_path) as path:
        settings = config(
            initrd=with_script(tmp_path, "echo up; cat"), serial="capture"
        )
        with Machine(settings) as machine:
            machine.plug(numbers_of(path))
            machine.start()
            machine.console.expect("up", DEADLINE)
            with pytest.raises(
                VmmError, match="is shared with the process behind the numb"
            ):
                machine.snapshot()
            assert machine.result is None


# Images by qemu-storage-daemon

LOOK = "dd if=/dev/vda bs=64k count=32 skip=16 iflag=direct 2>/dev/null | md5sum"
WRITE = (
    "dd if=/dev/urandom of=/dev/vda bs=64k count=32 seek=16 oflag=direct 2>/dev/null; "
    + LOOK
)


def run(script: str, **settings: Any) -> bytes:  # noqa: ANN401
    """What it prints in a guest; its status is 0."""
    with Machine(
        config(command=["sh", "-c", script], capture="capture", **settings)
    ) as machine:
        result = machine.run()
        assert machine.warnings == []
    assert (result.reason, result.exit_code) == (ExitReason.EXITED, 0), result
    assert result.output is not None
    return result.output


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make_qcow2(tmp_path / "disk.qcow2", 64 * MIB)


@pytest.mark.parametrize("way", WAYS)
def test_qcow2_keeps_what_is_written(image: Path, way: str) -> None:
    written = run(WRITE, disks=str(image), transport=way)
    assert run(LOOK, disks=f"{image},ro", transport=way) == written
    assert image.stat().st_size < 8 * MIB


def test_read_only_image_can_not_be_written_to(image: Path) -> None:
    before = image.read_bytes()
    script = "cat /sys/block/vda/ro; echo x 2>/dev/null >/dev/vda && exit 1; exit 0"
    assert run(script, disks=f"{image},ro") == b"1\n"
    assert image.read_bytes() == before


def test_overlay_vanishes_and_its_base_is_untouched(image: Path) -> None:
    first = run(WRITE, disks=str(image))
    before = image.read_bytes()
    with Machine(config(disks=f"{image},cow")):  # one base for several machines
        again = run(f"{LOOK}; {WRITE}; {LOOK}", disks=f"{image},cow").splitlines(True)
    assert again[0] == first != again[1] == again[2]
    assert run(LOOK, disks=f"{image},cow") == first
    assert image.read_bytes() == before


def test_overlay_that_stays_goes_on_from_where_it_was(
    image: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    disk = f"{image},cow={tmp_path}/elsewhere/over.qcow2"
    before = image.read_bytes()
    written = run(WRITE, disks=disk)
    assert run(LOOK, disks=disk) == written
    assert run(LOOK, disks=f"{image},ro") != written
    assert image.read_bytes() == before
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["over.qcow2"]


def test_case_65_daemon_that_dies_leaves_a_guest_that_runs(image: Path) -> None:
    script = (
        "echo up; read line </dev/console; dd if=/dev/vda of=/dev/null count=1 & "
        "echo on; cat </dev/console"
    )
    settings = config(
        initrd=built("initramfs-busybox.cpio"),
        command=["sh", "-c", script],
        serial="capture",
        disks=str(image),
    )
    with Machine(settings) as machine:
        (disk,) = machine.disks
        assert isinstance(disk, ServedDisk)
        machine.start()
        machine.console.expect("up", DEADLINE)
        os.kill(disk.pid, signal.SIGKILL)
        wait_until(lambda: bool(machine.warnings), "a word about it")
        machine.console.sendline("go")
        machine.console.expect("on", DEADLINE)
        machine.stop()
        machine.wait()
        what = "its backend has gone: qemu-storage-daemon was ended by SIGKILL"
        assert machine.warnings == [f"disk {str(image)!r}: {what}"]


def test_nothing_is_left_of_a_machine_that_is_killed(image: Path) -> None:
    program = (
        "import sys; from vmm import Machine, MachineConfig; "
        "machine = Machine(MachineConfig(disks=sys.argv[1], kernel=sys.argv[2])); "
        "print(machine.disks[0].pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(image), str(kernel("full"))],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}/comm").read_text() == "qemu-storage-da\n"
        process.kill()
    wait_until(lambda: not is_running(pid), "the daemon's end")


def is_running(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("backing", "what"),
    [
        ("/etc/passwd", "has a backing file '/etc/passwd', which isn't in its own f"),
        ("../passwd", "has a backing file '../passwd', which isn't in its own folder"),
        ("json:{}", "has a backing file 'json:{}', which is no file of its own folder"),
        ("nbd:host:1", "has a backing file 'nbd:host:1', which is no file of its own"),
        ("none.img", "none.img': No such file or directory"),
    ],
)
def test_image_names_no_file_outside_of_its_folder(
    tmp_path: Path, backing: str, what: str
) -> None:
    image = make_qcow2(tmp_path / "disk.qcow2", 64 * MIB, backing)
    with pytest.raises(ConfigError, match=f"^disks: '.*{what}"):
        Machine(config(disks=str(image)))


def test_image_that_is_in_use_is_refused(image: Path) -> None:
    with Machine(config(disks=str(image))) as machine:
        assert len(machine.disks) == 1
        with pytest.raises(ConfigError, match=r"Failed to get .* lock"):
            Machine(config(disks=str(image)))


def test_damaged_image_is_one_line(image: Path) -> None:
    with image.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(ConfigError) as error:
        Machine(config(disks=str(image)))
    assert str(error.value) == (
        f"disk {str(image)!r}: qemu-storage-daemon: qcow2 header too short"
    )


# Directories by virtiofsd

MOUNT = "mkdir -p /m; mount -t virtiofs shared /m || exit 9; cd /m; "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "file").write_text("from the host\n")
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_directory_is_shared(folder: Path, way: str) -> None:
    script = MOUNT + "cat file; mkdir sub; echo from the guest >sub/file; rm file"
    assert run(script, shares=folder, transport=way) == b"from the host\n"
    assert (folder / "sub" / "file").read_text() == "from the guest\n"
    assert not (folder / "file").exists()


def test_several_directories_by_tags(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    script = MOUNT + "mkdir /o; mount -t virtiofs /o /o; cp file /o"
    run(script, shares=[str(folder), f"{other}:/o"])
    assert (other / "file").read_text() == "from the host\n"


def test_case_63_symbolic_link_does_not_lead_out(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the host's")
    (folder / "link").symlink_to(secret)
    (folder / "up").symlink_to("..")
    script = MOUNT + "cat link up/secret ../secret 2>/dev/null && exit 1; exit 0"
    run(script, shares=folder)


def test_virtiofsd_that_dies_is_started_again_for_the_next_mount(folder: Path) -> None:
    script = (
        MOUNT + "cat file; echo up; read line </dev/console; cat file && exit 7; "
        "cd /; umount /m; mount -t virtiofs shared /m || exit 8; "
        "cat /m/file; echo again"
    )
    settings = config(command=["sh", "-c", script], serial="capture", shares=folder)
    with Machine(settings) as machine:
        machine.start()
        machine.console.expect("up", DEADLINE)
        os.kill(machine._plugboard.served[0].pid, signal.SIGKILL)  # type: ignore[attr-defined]
        wait_until(lambda: bool(machine.warnings), "a word about it")
        machine.console.sendline("go")
        machine.console.expect("again", DEADLINE)
        assert machine.wait().exit_code == 0
        assert machine.warnings == [
            f"share {str(folder)!r}: its backend has gone: virtiofsd was ended by "
            "SIGKILL; it was started again"
        ]


def test_shares_that_can_not_be_are_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for share, why in (
        (tmp_path / "none", "none': No such file or directory"),
        (folder / "file", "file': Not a directory"),
    ):
        with pytest.raises(ConfigError, match=f"^shares: '.*{why}$"):
            Machine(config(shares=share))
    with monkeypatch.context() as patch:
        patch.setattr(
            "vmm.boot.embedded_config.embedded_config", lambda _: {"PCI": "y"}
        )
        with pytest.raises(ConfigError, match="it was built without CONFIG_VIRTIO_FS"):
            Machine(config(shares=folder))
    monkeypatch.setattr("vmm.vhost_user.virtiofsd.PLACES", ("nobody",))
    with pytest.raises(ConfigError, match=r"takes nobody, which isn't here: install"):
        Machine(config(shares=folder))


def test_nothing_is_left_after_some_machines(folder: Path) -> None:
    for _ in range(5):
        with Machine(config(shares=folder)) as machine:
            pid = machine._plugboard.served[0].pid  # type: ignore[attr-defined]
        assert not is_running(pid)
