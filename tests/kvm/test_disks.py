"""Disks in real guests: what Linux's driver makes of ours, and what stays of it."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from support.disk_guests import MIB, check_ext4, disk_machine, ext4
from support.guests import DEADLINE, built, kernel, wait_until

import vmm
from vmm import ExitReason, Machine, MachineConfig, Snapshot, VmmError
from vmm.agent.guest import DEVNULL

pytestmark = pytest.mark.linux


def ask(machine: Machine, command: str) -> str:
    """What a command prints; it must be content."""
    done = machine.guest.run(command, text=True, check=True, timeout=DEADLINE)
    return str(done.stdout)


def begin(machine: Machine, command: str) -> None:
    """Run a command that goes on by itself."""
    machine.guest.popen(["sh", "-c", command], stdin=DEVNULL)


def started(*disks: str | Path, **settings: object) -> Machine:
    machine = disk_machine(*disks, **settings)
    try:
        machine.start()
        machine.guest.wait_ready(DEADLINE)
    except BaseException:
        machine.close()
        raise
    return machine


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    path = tmp_path / "blank.img"
    path.write_bytes(b"")
    os.truncate(path, 8 * MIB)
    return path


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_disks_are_what_they_are_said_to_be(tmp_path: Path, transport: str) -> None:
    sizes = {"vda": 1 * MIB, "vdb": 2 * MIB, "vdc": 3 * MIB}
    for name, size in sizes.items():
        (tmp_path / f"{name}.img").touch()
        os.truncate(tmp_path / f"{name}.img", size)
    disks = (
        f"{tmp_path}/vda.img,serial=first",
        f"{tmp_path}/vdb.img,ro,serial=of twenty bytes now",
        f"{tmp_path}/vdc.img,cow,cache=writethrough",
    )
    with started(*disks, transport=transport) as machine:
        for name, size in sizes.items():
            assert int(ask(machine, f"cat /sys/block/{name}/size")) == size // 512
        serials = ask(
            machine, "cd /sys/block; for d in vd?; do cat $d/serial; echo; done"
        )
        assert serials.split("\n")[:3] == ["first", "of twenty bytes now", ""]
        assert ask(machine, "cat /sys/block/vd?/ro").split() == ["0", "1", "0"]
        caches = ask(machine, "cat /sys/block/vd?/queue/write_cache").splitlines()
        assert caches == ["write back", "write back", "write through"]
        assert (
            "No space left"
            in machine.guest.run(
                "dd if=/dev/zero of=/dev/vda bs=1M count=2", text=True
            ).stderr
        )
        assert machine.guest.run("dd if=/dev/zero of=/dev/vdb count=1").returncode


def test_what_is_written_is_in_the_file(blank: Path) -> None:
    with started(blank) as machine:
        ask(machine, "dd if=/dev/urandom of=/dev/vda bs=4k count=512; sync")
        digest = ask(machine, "md5sum /dev/vda").split()[0]
    there = subprocess.run(
        ["md5sum", blank], capture_output=True, text=True, check=True
    )
    assert there.stdout.split()[0] == digest


def test_a_read_only_image_stays_as_it_is(blank: Path) -> None:
    with started(f"{blank},ro") as machine:
        done = machine.guest.run("dd if=/dev/zero of=/dev/vda count=1", text=True)
        assert done.returncode
    assert blank.read_bytes() == bytes(8 * MIB)


def test_space_comes_back(tmp_path: Path) -> None:
    image = ext4(tmp_path / "fs.img")
    with started(image) as machine:
        ask(machine, "mkdir /m; mount /dev/vda /m")
        ask(machine, "dd if=/dev/urandom of=/m/f bs=1M count=20; sync")
        full = image.stat().st_blocks
        ask(machine, "rm /m/f; sync; fstrim /m; umount /m")
        assert image.stat().st_blocks * 512 < full * 512 - 16 * MIB
    assert check_ext4(image) == ""


# Copy-on-write


def test_with_cow_the_image_is_never_written_to(tmp_path: Path) -> None:
    image = ext4(tmp_path / "fs.img")
    before = image.read_bytes()
    with started(f"{image},cow") as one, started(f"{image},cow") as other:
        for number, machine in enumerate((one, other)):
            ask(machine, f"mkdir /m; mount /dev/vda /m; echo {number} > /m/f; sync")
        assert [ask(machine, "cat /m/f") for machine in (one, other)] == ["0\n", "1\n"]
    assert image.read_bytes() == before


def test_an_overlay_that_stays_goes_on(tmp_path: Path) -> None:
    image = ext4(tmp_path / "fs.img")
    before = image.read_bytes()
    disk = f"{image},cow={tmp_path}/over"
    for number in range(3):
        with started(disk) as machine:
            ask(machine, f"mkdir /m; mount /dev/vda /m; echo {number} >> /m/f; sync")
            if number == 1:
                ask(machine, "umount /m")
            last = ask(machine, "cat /m/f 2>/dev/null || true")
    assert last == "0\n1\n2\n"
    assert image.read_bytes() == before


# Errors of the host's


def test_an_image_that_shrinks_is_an_error_in_the_guest(blank: Path) -> None:
    with started(blank) as machine:
        os.truncate(blank, 4096)
        done = machine.guest.run("dd if=/dev/vda of=/dev/null bs=4k skip=8", text=True)
        assert "Input/output error" in done.stderr
        ask(machine, "dd if=/dev/vda of=/dev/null bs=4k count=1 iflag=direct")
        told = [line for line in machine.warnings if "shorter" in line]
        assert len(told) == 1
        assert str(blank) in told[0]


def test_case_36_a_full_disk_is_an_error_in_the_guest(blank: Path) -> None:
    limit = 4 * MIB

    def fill_the_disk() -> None:  # as far as we are concerned
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    script = (
        "dd if=/dev/zero of=/dev/vda bs=64k count=32 oflag=direct || exit 3;"
        "for i in 1 2 3; do"
        " dd if=/dev/zero of=/dev/vda bs=64k seek=80 count=1 oflag=direct && exit 4;"
        "done;"
        "dd if=/dev/vda of=/dev/null bs=64k count=32 iflag=direct && echo goes on"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vmm", "run", "--kernel", str(kernel("full"))),
            *("--append", "quiet", "--disk", str(blank)),
            *("--timeout", str(DEADLINE), "--exec", f"sh -c '{script}'"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        preexec_fn=fill_the_disk,
        timeout=2 * DEADLINE,
    )
    assert (done.returncode, done.stdout.count("goes on")) == (0, 1), done
    assert done.stdout.count("Input/output error") == 3
    assert done.stderr.count("it can't be written to: File too large") == 1
    assert str(blank) in done.stderr


# Resize


def test_a_disk_grows_while_it_runs(blank: Path) -> None:
    with started(blank) as machine:
        (disk,) = machine.disks
        disk.resize(32 * MIB)
        wait_until(
            lambda: int(ask(machine, "cat /sys/block/vda/size")) == 32 * MIB // 512,
            "the guest sees what its disk has now",
        )
        ask(machine, "dd if=/dev/zero of=/dev/vda bs=1M seek=31 count=1 oflag=direct")
    assert blank.stat().st_size == 32 * MIB


# Snapshots


WORK = """
i=0
while [ ! -e /m/stop ]; do
    head -c 300000 /dev/urandom > /m/$i
    md5sum /m/$i >> /m/sums
    i=$(((i+1) % 500))
    [ $i -gt 0 ] || > /m/sums
done
sync
touch /m/stopped
"""


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Machine]:
    """A machine with an ext4 that it writes to all the time."""
    with started(f"{ext4(tmp_path / 'fs.img', 256 * MIB)},cow") as machine:
        ask(machine, "mkdir /m; mount /dev/vda /m")
        begin(machine, WORK)
        wait_until(
            lambda: "10" in ask(machine, "ls /m").split(), "it writes to its disk"
        )
        yield machine


def check_files(machine: Machine) -> None:
    """All files are what was written, and the file system is clean."""
    ask(machine, "touch /m/stop; until [ -e /m/stopped ]; do sleep 0.1; done")
    ask(machine, "echo 3 > /proc/sys/vm/drop_caches; md5sum -c /m/sums > /dev/null")
    kernel_says = ask(machine, "dmesg")
    assert "EXT4-fs error" not in kernel_says
    assert "I/O error" not in kernel_says


def test_case_67_clones_go_on_with_disks_of_their_own(busy: Machine) -> None:
    with (
        busy.snapshot() as snapshot,
        snapshot.clone() as one,
        snapshot.clone() as other,
    ):
        for number, machine in enumerate((one, other, busy)):
            ask(
                machine,
                f"echo {number} > /m/own; sync; echo 3 > /proc/sys/vm/drop_caches",
            )
        found = [ask(machine, "cat /m/own") for machine in (one, other, busy)]
        assert found == ["0\n", "1\n", "2\n"]
        for machine in (one, other, busy):
            check_files(machine)


def test_case_67_a_machine_is_put_back_with_its_disk(busy: Machine) -> None:
    with busy.snapshot():
        ask(busy, "echo later > /m/later; sync")
        for _ in range(3):
            busy.reset()
            assert "later" not in ask(busy, "ls /m").split()
            ask(busy, "echo later > /m/later; sync")
        check_files(busy)


def test_a_saved_snapshot_has_what_was_written(busy: Machine, tmp_path: Path) -> None:
    with busy.snapshot() as snapshot:
        snapshot.save(tmp_path / "saved")
        snapshot.save(tmp_path / "saved")
    busy.close()
    with Snapshot.load(tmp_path / "saved") as loaded, loaded.clone() as machine:
        check_files(machine)
    image = tmp_path / "fs.img"
    os.utime(image, ns=(1, 1))
    with pytest.raises(VmmError, match="was changed since"):
        Snapshot.load(tmp_path / "saved")


def test_a_disk_that_is_written_to_in_its_place_is_in_no_snapshot(blank: Path) -> None:
    with started(blank) as machine:
        with pytest.raises(VmmError, match="add cow, or ro"):
            machine.snapshot()
        assert ask(machine, "echo it runs on") == "it runs on\n"


def test_pauses_lose_nothing(busy: Machine) -> None:
    for _ in range(10):
        busy.pause()
        busy.resume()
    check_files(busy)


def has_booted(machine: Machine) -> bool:
    """Again: with nothing mounted."""
    try:
        return "/m" not in ask(machine, "cat /proc/mounts")
    except VmmError:
        return False


# Case 23: the guest goes, with requests in flight


@pytest.mark.parametrize("how", ["b", "c"])
def test_case_23_a_guest_that_boots_again_finds_its_disk(
    tmp_path: Path, how: str
) -> None:
    image = ext4(tmp_path / "fs.img", 256 * MIB)
    settings = {"on_reset": "restart", "on_panic": "restart"}
    with started(image, **settings) as machine:
        for _ in range(2):
            ask(machine, "mkdir -p /m; mount /dev/vda /m")
            ask(machine, "echo kept > /m/kept; sync /m/kept; sync")
            begin(machine, WORK)
            begin(machine, f"sleep 0.3; echo {how} > /proc/sysrq-trigger")
            wait_until(lambda: has_booted(machine), "it boots again")
        ask(machine, "mkdir -p /m; mount /dev/vda /m")
        assert ask(machine, "cat /m/kept") == "kept\n"
        ask(machine, "umount /m")
    assert check_ext4(image) == ""


# Root


def test_the_root_is_on_a_disk(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with built("initramfs-busybox.cpio").open("rb") as archive:
        subprocess.run(
            ["cpio", "-idm", "--quiet", "--no-absolute-filenames"],
            stdin=archive,
            cwd=root,
            check=False,
            capture_output=True,
        )
    image = ext4(tmp_path / "root.img", content=root)
    config = MachineConfig(
        kernel=kernel("full"),
        disks=[str(image)],
        append="root=/dev/vda rw init=/bin/sh",
        timeout=DEADLINE,
    )
    with Machine(config) as machine:
        machine.start()
        machine.console.expect("# ", DEADLINE)
        machine.console.sendline(
            "/bin/busybox mount -t proc none /proc; cat /proc/mounts"
        )
        machine.console.expect("/dev/root / ext4 rw", DEADLINE)
        machine.console.sendline("echo here > /here; sync; echo o''ver")
        machine.console.expect("over", DEADLINE)
        machine.console.sendline("/bin/busybox reboot -f")
        assert machine.wait(DEADLINE).reason is ExitReason.RESET
    assert check_ext4(image) == ""


# A stock kernel, with a queue for each of its CPUs

MODULES = (
    *("virtio_ring", "virtio", "virtio_mmio", "virtio_pci_legacy_dev"),
    *("virtio_pci_modern_dev", "virtio_pci", "virtio_blk"),
)
STOCK = f"""#!/bin/sh
for module in {" ".join(MODULES)}; do insmod /$module.ko || exit 1; done
ls /sys/block/vda/mq
mkdir /m && mount /dev/vda /m && cd /m || exit 1
for i in 1 2 3 4; do
    (dd if=/dev/urandom of=$i bs=64k count=32 2>/dev/null; md5sum $i > $i.sum; sync) &
done
wait
echo 3 > /proc/sys/vm/drop_caches
md5sum -c *.sum || exit 1
cd / && umount /m || exit 1
dmesg | grep -E 'I/O error|EXT4-fs error|BUG:|Call Trace:' && exit 1
exit 0
"""


@pytest.mark.hardware
@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_a_stock_kernel_has_a_queue_for_each_cpu(
    tmp_path: Path, transport: Literal["pci", "mmio"]
) -> None:
    image = ext4(tmp_path / "fs.img")
    script = tmp_path / "stock.sh"
    script.write_text(STOCK)
    script.chmod(0o755)
    names = [f"{name}.ko" for name in MODULES]
    files = [(built(f"modules-debian/{name}"), f"/{name}") for name in names]
    result = vmm.run(
        kernel=built("vmlinux-debian"),
        command="/stock.sh",
        files=[*files, (script, "/stock.sh")],
        capture="capture",
        append="quiet",
        cpus=2,
        memory="256M",
        disks=image,
        transport=transport,
        timeout=DEADLINE,
    )
    assert result.guest_status == 0, (result.detail, result.output, result.report)
    assert (result.output or b"").decode().split()[:2] == ["0", "1"]
    assert check_ext4(image) == ""
