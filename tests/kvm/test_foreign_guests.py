"""Guests that nobody here wrote: a memory test, an installer, other kernels."""

import re
from pathlib import Path

import pytest
from support.debian import FetchError
from support.foreign import fetch, quickest
from support.guests import (
    DEADLINE,
    SUFFIX,
    Shell,
    built,
    follow,
    kernel,
    with_script,
)
from support.lengths import EMULATED

import vmm
from vmm import ExitReason, Machine, MachineConfig
from vmm.guest import cpio
from vmm.watch.panic import TOLD

pytestmark = pytest.mark.linux

INSTALLER_S = 4 * DEADLINE  # it unpacks 40 MB, and starts udev
# Its 140 MB and all its processes take half a minute where a kernel is emulated, and
# three seconds of ours. The kernel alone, the others boot.
RARELY = [pytest.mark.long] if SUFFIX or EMULATED else []
INSTALLERS_KERNEL = [
    pytest.param(None, id="its-own", marks=[pytest.mark.hardware, *RARELY]),
]
if SUFFIX:
    INSTALLERS_KERNEL.append(pytest.param("full", id="ours"))


@pytest.fixture
def foreign(request: pytest.FixtureRequest) -> Path:
    """The folder of what the test's marker names."""
    marker = request.node.get_closest_marker("foreign")
    try:
        return fetch(marker.args[0])
    except FetchError as error:
        pytest.skip(f"no network? {error}")


@pytest.mark.hardware  # on PVM, too, it goes that far, but at its own pace
@pytest.mark.foreign("memtest")
def test_memtest86_reaches_its_first_test_and_answers_keys(foreign: Path) -> None:
    """A bzImage without a payload; Esc resets, by whatever way there is."""
    config = MachineConfig(
        kernel=foreign / "memtest86+.bin",
        memory="8M",
        cmdline="console=ttyS0,115200",
        timeout=2 * DEADLINE,
    )
    with Machine(config) as machine:
        console = machine.console
        machine.start()
        console.expect("Memtest86+ v", timeout=DEADLINE)
        # The first one or two may be over before the screen is drawn again.
        console.expect(re.compile(rb"#[0-9]+ +\[\w+"), timeout=DEADLINE)
        console.send("1")  # F1
        console.expect("Settings:", timeout=DEADLINE)
        console.send("0")  # F10
        console.expect("Status: ", timeout=DEADLINE)
        console.send("\x1b")
        result = machine.wait(DEADLINE)
    assert result.reason is ExitReason.RESET


@pytest.mark.foreign("installer")
@pytest.mark.parametrize("image", INSTALLERS_KERNEL)
def test_debians_installer_draws_its_dialogs_and_moves_on_a_key(
    image: str | None, foreign: Path
) -> None:
    config = MachineConfig(
        kernel=kernel(image) if image else quickest(foreign / "linux"),
        initrd=foreign / "initrd.gz",
        memory="1G",  # with less it says so first
        cmdline="console=ttyS0,115200 quiet",
        timeout=2 * INSTALLER_S,
    )
    with Machine(config) as machine:
        console = machine.console
        machine.start()
        console.expect("Select a language", timeout=INSTALLER_S)
        console.expect("<Go Back>", timeout=DEADLINE)  # the last line of the dialog
        console.send("\r")
        console.expect("Select your location", timeout=INSTALLER_S)


@pytest.mark.hardware
@pytest.mark.foreign("installer")
def test_without_acpi_a_kernel_that_has_it_finds_cpus_by_the_mp_table(
    foreign: Path,
) -> None:
    """The installer's is Debian's generic kernel, which knows both."""
    script = "nproc; dmesg | grep -E 'MPTABLE|ACPI'; grep ttyS0 /proc/interrupts"
    result = vmm.run(
        kernel=quickest(foreign / "linux"),
        command=["sh", "-c", script],
        append="quiet acpi=off",
        cpus=2,
        memory="512M",
        timeout=DEADLINE,
    )
    assert result.guest_status == 0
    assert result.output is not None
    assert result.output.startswith(b"2\n")
    assert b"MPTABLE: OEM ID: MINIVMM" in result.output
    assert b"ACPI: Interpreter disabled" in result.output
    assert re.search(rb"IO-APIC +4-edge +ttyS0", result.output)


@pytest.mark.hardware
@pytest.mark.foreign("installer")
def test_a_clones_random_numbers_are_stirred_before_anybody_asks(
    foreign: Path,
) -> None:
    """By the VM generation ID: Debian's generic kernel has the driver, and no agent."""
    config = MachineConfig(
        kernel=quickest(foreign / "linux"),
        initrd=built("initramfs-busybox.cpio"),
        memory="512M",
        append="quiet guest.shell",
        serial="capture",
        timeout=3 * DEADLINE,
    )
    asked = "until dmesg | grep -q '%s'; do sleep 0.1; done; dmesg | grep -c '%s'"
    told = "random: crng reseeded due to virtual machine fork"
    with Machine(config) as machine:
        machine.start()
        shell = Shell(machine)
        shell.ask(asked % ("crng init done", told))
        with machine.snapshot() as snapshot, snapshot.clone() as clone:
            assert follow(clone).ask(asked % (told, told)) == "1\r\n"
        assert shell.ask(f"dmesg | grep -c '{told}'") == "0\r\n"
        machine.reset()
        assert shell.ask(asked % (told, told)) == "1\r\n"


@pytest.mark.hardware
@pytest.mark.foreign("trixie-cloud")
def test_debians_kernel_of_another_generation_boots_to_our_init(foreign: Path) -> None:
    """Debian 13's. Of those that Debian 12 has by backports, QEMU's emulated SVM makes
    every third die of anything, whoever is its VMM: by wrong flags, it seems."""
    config = MachineConfig(
        kernel=quickest(foreign / "bzImage"),
        initrd=built("initramfs-tiny.cpio"),
        memory="512M",
        append="quiet",
        timeout=DEADLINE / 2,
    )
    with Machine(config) as machine:
        result = machine.run()
        output = machine.console.read().decode(errors="replace")
    release = re.search(r"guest: userspace Linux (\d+)\.(\d+)\.\S*deb13", output)
    assert release is not None
    assert (int(release[1]), int(release[2])) > (6, 1)
    assert result.reason is ExitReason.RESET


@pytest.mark.hardware
@pytest.mark.foreign("pvpanic")
def test_pvpanic_of_linux_tells_of_a_panic_though_its_console_is_elsewhere(
    foreign: Path, tmp_path: Path
) -> None:
    """The driver finds its port by ACPI, as QEMU0001."""
    script = """
    busybox insmod /pvpanic.ko && busybox insmod /pvpanic-mmio.ko
    echo c > /proc/sysrq-trigger
    """
    initrd = with_script(tmp_path, script)
    modules = [
        cpio.file(name, (foreign / name).read_bytes(), 0o644)
        for name in ("pvpanic.ko", "pvpanic-mmio.ko")
    ]
    initrd.write_bytes(initrd.read_bytes() + cpio.write(modules))
    config = MachineConfig(
        kernel=foreign / "bzImage",
        initrd=initrd,
        memory="256M",
        cmdline="console=tty0 panic=0",
        timeout=2 * DEADLINE,
    )
    with Machine(config) as machine:
        result = machine.run()
    assert (result.reason, result.exit_code) == (ExitReason.PANIC, 34)
    assert result.detail == TOLD
