"""Images that boot by themselves: kernel, initrd and command line are their own."""

import subprocess
from pathlib import Path

import pytest
from support.cloud_image import partitioned, program
from support.debian import FetchError
from support.debian_image import NAME
from support.foreign import fetch
from support.guests import DEADLINE, Shell, built, kernel, refuse

from vmm import ExitReason, ImageError, Machine, MachineConfig, Snapshot

CMDLINE = "console=ttyS0 reboot=k panic=-1 quiet"
MENU = f"""\
set default="0"
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'simple' {{
    search --no-floppy --fs-uuid --set=root 0123
    linux /boot/vmlinuz {CMDLINE} guest.shell
    initrd /boot/initrd.img
}}
"""
USER_DATA = "#cloud-config\nhostname: ours\n"
LOGIN = f"""\
{USER_DATA}chpasswd:
  expire: false
  users: [{{name: root, password: secret, type: text}}]
locale: C.UTF-8
ssh_genkeytypes: []
"""
BOOT_S = 1500  # emulated, on a busy host


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with our own kernel and busybox."""
    program("grub-fstest", "grub-common")
    files = {
        "/boot/grub/grub.cfg": MENU.encode(),
        "/boot/vmlinuz": kernel("full").read_bytes(),
        "/boot/initrd.img": built("initramfs-busybox.cpio").read_bytes(),
    }
    return partitioned(tmp_path_factory.mktemp("image") / "cloud.img", files)


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    program("xorrisofs", "xorriso")
    path = tmp_path / "user-data"
    path.write_text(USER_DATA)
    return path


@pytest.mark.linux
class TestOurKernel:
    def test_image_boots_its_own_kernel_and_mounts_itself(self, image: Path) -> None:
        before = image.read_bytes()
        config = MachineConfig(disks=f"{image},cow", boot_from_disk=True)
        with Machine(config) as machine:
            machine.start()
            shell = Shell(machine)
            assert f"{CMDLINE} guest.shell" in shell.ask("cat /proc/cmdline")
            shell.ask("mkdir /mnt; mount /dev/vda1 /mnt")
            assert "vmlinuz" in shell.ask("ls /mnt/boot")
            shell.ask("rm /mnt/boot/vmlinuz; umount /mnt")
            machine.console.sendline("reboot -f")
            assert machine.wait(DEADLINE).reason is ExitReason.RESET
        assert image.read_bytes() == before

    def test_guest_that_restarts_boots_it_again(self, image: Path) -> None:
        config = MachineConfig(
            disks=f"{image},cow", boot_from_disk=True, on_reset="restart"
        )
        with Machine(config) as machine:
            machine.start()
            Shell(machine)
            machine.console.sendline("reboot -f")
            assert "guest.shell" in Shell(machine).ask("cat /proc/cmdline")

    def test_command_line_may_be_the_users(self, image: Path) -> None:
        config = MachineConfig(
            disks=f"{image},ro",
            boot_from_disk=True,
            cmdline=f"{CMDLINE} ours",
            append="more",
            timeout=DEADLINE,
        )
        with Machine(config) as machine:
            assert machine.run().reason is ExitReason.RESET  # there is no shell

    def test_qcow2_image_boots_with_a_process_that_serves_it(
        self, image: Path, tmp_path: Path
    ) -> None:
        program("qemu-storage-daemon", "qemu-system-common")
        qcow2 = tmp_path / "cloud.qcow2"
        convert = [program("qemu-img", "qemu-utils"), "convert", "-O", "qcow2"]
        subprocess.run([*convert, str(image), str(qcow2)], check=True, timeout=120)
        config = MachineConfig(disks=qcow2, boot_from_disk=True)
        with Machine(config) as machine:
            machine.start()
            shell = Shell(machine)
            shell.ask("mkdir /mnt; mount /dev/vda1 /mnt")
            assert "vmlinuz" in shell.ask("ls /mnt/boot")

    def test_seed_is_the_last_disk_and_a_clone_has_it_too(
        self, image: Path, seed: Path, tmp_path: Path
    ) -> None:
        config = MachineConfig(disks=f"{image},cow", boot_from_disk=True, seed=seed)
        with Machine(config) as machine:
            machine.start()
            shell = Shell(machine)
            label = "dd if=/dev/vdb bs=1 skip=32808 count=6 2>/dev/null"
            assert shell.ask(label) == "cidata"
            assert shell.ask("cat /sys/block/vdb/ro").strip() == "1"
            snapshot = machine.snapshot()
            with snapshot.clone() as clone:
                clone.console.sendline(f"{label}; echo; echo gone")
                assert b"cidata" in clone.console.expect("gone\r", DEADLINE).before
            snapshot.save(tmp_path / "saved")
        seed.unlink()
        with Snapshot.load(tmp_path / "saved").clone() as clone:
            clone.console.sendline(f"{label}; echo; echo gone")
            assert b"cidata" in clone.console.expect("gone\r", DEADLINE).before

    def test_kernel_that_is_none_is_named_with_its_image(self, tmp_path: Path) -> None:
        files = {"/boot/grub/grub.cfg": MENU.encode(), "/boot/vmlinuz": b"no kernel"}
        files["/boot/initrd.img"] = b"initrd"
        path = partitioned(tmp_path / "cloud.img", files)
        with pytest.raises(ImageError, match=r"kernel '.*cloud.img:/boot/vmlinuz': "):
            Machine(MachineConfig(disks=f"{path},ro", boot_from_disk=True))


@pytest.mark.hardware
@pytest.mark.long
@pytest.mark.foreign("cloud")
@pytest.mark.timeout(2 * BOOT_S)
def test_debians_image_boots_to_a_login_with_cloud_init_done(tmp_path: Path) -> None:
    """With Debian's own kernel, initrd, systemd and cloud-init, from its disk."""
    try:
        image = fetch("cloud") / NAME
    except FetchError as error:
        refuse(str(error))
    seed = tmp_path / "user-data"
    seed.write_text(LOGIN)
    config = MachineConfig(
        disks=f"{image},cow",
        boot_from_disk=True,
        seed=seed,
        memory="512M",
        timeout=BOOT_S,
    )
    with Machine(config) as machine:
        machine.start()
        console = machine.console
        console.expect("finished at", BOOT_S)
        console.sendline("")
        console.expect("ours login: ", DEADLINE)
        console.sendline("root")
        console.expect("Password: ", DEADLINE)
        console.sendline("secret")
        console.expect("root@ours:~# ", DEADLINE)
        console.sendline("cloud-init status; findmnt -no SOURCE,OPTIONS /")
        told = console.expect("root@ours:~# ", DEADLINE).before
        assert b"status: done" in told
        assert b"/dev/vda1 rw" in told
        console.sendline("poweroff")
        result = machine.wait(BOOT_S)
    assert (result.reason, result.exit_code) == (ExitReason.POWEROFF, 0)
