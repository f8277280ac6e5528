"""Kernels that run in ring 3: what only they have. On PVM most Linux tests boot one."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.guests import DEADLINE, built, with_script

import vmm
from scripts.with_kvm.host_kvm import host_kvm
from vmm import ExitReason, Machine, MachineConfig, RunResult

pytestmark = pytest.mark.linux

TINY, FULL = "vmlinux-tiny-ring3", "vmlinux-full-ring3"
on_pvm = pytest.mark.skipif(host_kvm().kind != "pvm", reason="it is for PVM")


def script(folder: Path, text: str, name: str = FULL, **settings: object) -> list[str]:
    """What a script prints in a guest, which resets then."""
    config = MachineConfig(
        kernel=built(name),
        initrd=with_script(folder, text),
        append="quiet",
        timeout=DEADLINE,
        **settings,  # type: ignore[arg-type]
    )
    with Machine(config) as machine:
        result = machine.run()
        output = machine.console.read().decode()
    assert result.reason is ExitReason.RESET, output
    return output.replace("\r", "").split("\n")


def vmm_run(*words: str) -> "subprocess.CompletedProcess[str]":
    """The command, as a user has it."""
    return subprocess.run(
        [sys.executable, "-m", "vmm", "run", *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        stdin=subprocess.DEVNULL,
    )


@on_pvm
def test_a_quiet_boot_has_few_emulated_instructions_and_no_quirk_for_them() -> None:
    """Two and a half million are a stock one's."""
    with Machine(MachineConfig(append="quiet", timeout=DEADLINE)) as machine:
        result = machine.run()
    assert result.reason is ExitReason.RESET
    assert 5_000 < result.insn_emulation < 50_000
    assert result.quirks == {"cpuid": 1}
    assert result.cmdline == "console=ttyS0 reboot=k panic=-1 quiet"


@on_pvm
def test_it_is_the_default_which_is_said_in_a_line() -> None:
    done = vmm_run("--append", "quiet", "--timeout", str(DEADLINE))
    assert done.returncode == 0
    assert "-tiny-ring3 " in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0] == f"vmm: no --kernel: booting our {TINY}, this host's default"
    assert lines[1].startswith("vmm: the guest reset (")


@on_pvm
def test_a_stock_kernel_is_warned_of_once() -> None:
    tiny, initrd = str(built("vmlinux-tiny")), str(built("initramfs-tiny.cpio"))
    done = vmm_run("--kernel", tiny, "--initrd", initrd, "--timeout", "0.5")
    (warning,) = [line for line in done.stderr.splitlines() if "warning" in line]
    assert "does not run in ring 3" in warning
    assert "AVX" in warning


@pytest.mark.hardware
def test_it_boots_on_other_hosts_too_where_a_stock_one_is_faster() -> None:
    tiny, initrd = str(built(TINY)), str(built("initramfs-tiny.cpio"))
    done = vmm_run("--kernel", tiny, "--initrd", initrd, "--append", "quiet")
    assert done.returncode == 0, done.stderr
    assert "guest: userspace" in done.stdout
    assert "here a stock one is faster" in done.stderr


def test_two_cpus_are_refused() -> None:
    done = vmm_run("--kernel", str(built(TINY)), "--cpus", "2")
    assert done.returncode == 2
    assert done.stderr.startswith("vmm: error: cpus: 2, and kernel ")
    assert "pass --cpus 1, or a stock kernel" in done.stderr


def test_a_command_of_the_shell_in_the_default_guest() -> None:
    result = vmm.run(command=["sh", "-c", "echo $((6 * 7)); exit 3"], append="quiet")
    assert (result.guest_status, result.output) == (3, b"42\n")


def test_modules_come_and_go(tmp_path: Path) -> None:
    brd = built("modules-full-ring3/brd.ko")
    text = "insmod /brd.ko && ls /dev/ram0 && rmmod brd && ls /dev/ram0 || lsmod"
    result = vmm.run(
        kernel=built(FULL),
        command=["/bin/busybox", "sh", "-c", text],
        files={"/brd.ko": brd},
        append="quiet",
        timeout=DEADLINE,
    )
    assert result.output is not None
    assert result.output.startswith(b"/dev/ram0\n"), result.output
    assert b"No such file" in result.output
    assert b"brd" not in result.output.splitlines()[-1]


def test_full_has_what_devices_to_come_need(tmp_path: Path) -> None:
    output = script(
        tmp_path,
        "cat /proc/filesystems; ls /sys/bus /sys/bus/virtio/drivers; "
        "ls -d /dev/port /sys/firmware/acpi/tables/DSDT",
    )
    filesystems = {"ext4", "overlay", "tmpfs", "devtmpfs", "9p", "virtiofs", "fuseblk"}
    drivers = set(
        "virtio_blk virtio_net virtio_console virtio_rng virtio_balloon "
        "vmw_vsock_virtio_transport virtiofs 9pnet_virtio".split()
    )
    buses = {"pci", "acpi", "serio", "virtio", "platform"}
    files = {"/dev/port", "/sys/firmware/acpi/tables/DSDT"}
    assert filesystems | drivers | buses | files <= set(" ".join(output).split())


def crashed(command: str) -> RunResult:
    """What a command that crashes the kernel comes to."""
    result = vmm.run(
        kernel=built(FULL),
        command=["/bin/busybox", "sh", "-c", command],
        files={"/lkdtm.ko": built("modules-full-ring3/lkdtm.ko")},
        append="quiet oops=panic",
        timeout=DEADLINE,
    )
    assert (result.reason, result.exit_code) == (ExitReason.PANIC, 125)
    return result


def test_a_panic_is_reported_with_its_words() -> None:
    result = crashed("echo c >/proc/sysrq-trigger")
    assert "sysrq triggered crash" in result.detail
    assert "Call Trace:" in result.oops


@pytest.mark.parametrize(
    ("point", "words"),
    [
        (
            "EXCEPTION",
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
        ),
        ("BUG", "kernel BUG at drivers/misc/lkdtm/bugs.c"),
    ],
)
def test_an_oops_is_the_kernels_as_one_in_ring_0_is(point: str, words: str) -> None:
    """Though CPL was 3: by the frame's CS, and the page fault's error code."""
    result = crashed(f"insmod /lkdtm.ko cpoint_name=DIRECT cpoint_type={point}")
    assert words in result.oops
    assert "RIP: 0010:lkdtm_" in result.oops
    if point == "EXCEPTION":
        assert "#PF: supervisor write access in kernel mode" in result.oops
