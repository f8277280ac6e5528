"""ACPI: what guests make of the tables, and how they end by them."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.guests import (
    DEADLINE,
    SUFFIX,
    Shell,
    bare_machine,
    built,
    follow,
    with_script,
)
from support.kernel_images import MIB, elf, program_header

from vmm import ExitReason, Machine, MachineConfig, RunResult
from vmm.boot.layout import VM_GENERATION_ID
from vmm.cli.main import main
from vmm.devices.acpi_device import AcpiDevice
from vmm.devices.device_io import DeviceIo
from vmm.devices.pc.vm_generation_id import GENERATION_ID_SIZE, GENERATION_IRQ
from vmm.devices.resources import (
    LegacyIrqConstraint,
    MmioAddressConstraint,
    PioAddressConstraint,
    ResourceConstraint,
)
from vmm.errors import ConfigError, ImageError

# What ACPICA and Linux's ACPI code say of tables that they don't like.
PROBLEMS = re.compile(
    r"ACPI (BIOS )?(Error|Warning|Exception|FADT.*mismatch)|ACPI.*(fail|invalid|unable)"
    r"|Firmware Bug|FW issue",
    re.IGNORECASE,
)


class Adder(DeviceIo):
    """Somebody's device, which describes itself."""

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        return [
            PioAddressConstraint.at(0x500, 1),
            MmioAddressConstraint(size=0x1000),
            LegacyIrqConstraint(irq=5),
        ]

    def get_acpi_devices(self) -> Sequence[AcpiDevice]:
        return [AcpiDevice("ADDR0001", self.get_assigned_resources())]


class Line23(DeviceIo):
    """One that wants the interrupt that the generation ID has where there is ACPI."""

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        return [LegacyIrqConstraint(irq=GENERATION_IRQ)]


class Port(DeviceIo):
    """One of very many."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        return [PioAddressConstraint.at(self.port, 1)]

    def get_acpi_devices(self) -> Sequence[AcpiDevice]:
        return [AcpiDevice("ABCD0001", self.get_assigned_resources())]


def boot(
    folder: Path, script: str, *devices: DeviceIo, **settings: object
) -> tuple[RunResult, str]:
    """Debian's kernel runs `script`; the result and the console's text."""
    config = MachineConfig(
        kernel=built("vmlinux-debian"),
        initrd=with_script(folder, script),
        memory="256M",
        timeout=DEADLINE,
        **settings,  # type: ignore[arg-type]
    )
    with Machine(config) as machine:
        for device in devices:
            machine.plug(device)
        result = machine.run()
        return result, machine.console.read().decode()


def test_power_off_acts_before_the_next_instruction() -> None:
    with bare_machine("poweroff", timeout=DEADLINE) as machine:
        result = machine.run()
        assert machine.console.read() == b""
    assert result.reason is ExitReason.POWEROFF
    assert result.exit_code == 0
    assert result.resets == 0


def test_without_acpi_there_are_no_registers_to_power_off_by() -> None:
    with bare_machine("poweroff", acpi=False) as machine:
        machine.start()
        machine.console.expect("X", timeout=DEADLINE)


def test_vmm_run_ends_with_0_after_a_power_off(
    capfd: pytest.CaptureFixture[str],
) -> None:
    kernel = str(built("bare/poweroff.elf"))
    assert main(["run", "--kernel", kernel, "--serial", "null"]) == 0
    assert "vmm: the guest powered off (" in capfd.readouterr().err


def test_more_devices_than_the_tables_have_room_for_are_refused_at_the_start() -> None:
    with bare_machine("poweroff") as machine:
        for port in range(0x1000, 0x1000 + 3500):
            machine.plug(Port(port))
        with pytest.raises(
            ConfigError, match=r"^acpi: the tables of 35\d\d devices take"
        ):
            machine.start()


def test_without_acpi_there_is_no_generation_id() -> None:
    with bare_machine("poweroff", acpi=False) as machine:
        assert not any(machine.memory.read(VM_GENERATION_ID, GENERATION_ID_SIZE))
        machine.plug(Line23())  # nobody has it
    with bare_machine("poweroff") as machine:
        assert any(machine.memory.read(VM_GENERATION_ID, GENERATION_ID_SIZE))


def test_a_kernel_over_the_generation_id_is_refused_where_there_is_one(
    tmp_path: Path,
) -> None:
    kernel = tmp_path / "kernel"
    parts = [program_header(MIB, 16, 64), program_header(VM_GENERATION_ID, 0, 16)]
    kernel.write_bytes(elf(parts, entry=MIB))
    with (
        Machine(MachineConfig(kernel=kernel, serial="null")) as machine,
        pytest.raises(ImageError, match="lies over the VM generation ID, at "),
    ):
        machine.start()
    with Machine(MachineConfig(kernel=kernel, serial="null", acpi=False)) as machine:
        machine.start()


@pytest.mark.linux
@pytest.mark.hardware
def test_linux_likes_the_tables_finds_the_devices_and_powers_off(
    tmp_path: Path,
) -> None:
    script = f"""
    dmesg | grep -iE '{PROBLEMS.pattern}|supports S|MADT|PNP: PS/2|ttyS0|rtc_cmos'
    grep -hE 'ADDR0001|QEMU0001' /proc/ioports /proc/iomem
    echo $(grep -c ^processor /proc/cpuinfo) processors
    exec busybox poweroff -f
    """
    result, output = boot(tmp_path, script, Adder(), cpus=2, append="quiet")
    assert PROBLEMS.findall(output) == []
    assert "ACPI: PM: (supports S0 S5)" in output
    assert "Using ACPI (MADT) for SMP configuration information" in output
    assert "\n2 processors" in output
    # COM1, the keyboard and the clock are found by their descriptions ...
    assert "00:00: ttyS0 at I/O 0x3f8 (irq = 4" in output
    assert re.search(
        r"PNP: PS/2 Controller \[PNP0303:\w+,PNP0f13:\w+\] at 0x60,0x64 irq 1,12",
        output,
    )
    assert "AUX port disabled" not in output
    assert re.search(r"rtc_cmos 00:\w\w: registered as rtc0", output)
    # ... and so is a device of the user's.
    assert "0500-0500 : ADDR0001:00" in output
    assert "fc000000-fc000fff : ADDR0001:00" in output
    assert "0505-0505 : QEMU0001:00" in output
    assert result.reason is ExitReason.POWEROFF
    assert result.exit_code == 0


@pytest.mark.linux
@pytest.mark.both
def test_a_clone_is_told_by_acpi_that_it_is_one_and_its_parent_is_not() -> None:
    """By its interrupt, which shows whether or not the kernel has a driver for it."""
    config = MachineConfig(
        kernel=built("vmlinux-full-ring3" if SUFFIX else "vmlinux-debian"),
        initrd=built("initramfs-busybox.cpio"),
        memory="256M",
        append="quiet guest.shell",
        serial="capture",
        timeout=DEADLINE,
    )
    count = "sed -n 's/^ *23: *\\([0-9]*\\).*ACPI:Ged/\\1/p' /proc/interrupts"
    until = f"until [ $({count}) -gt 0 ]; do :; done; sleep 0.1; {count}"
    with Machine(config) as machine:
        machine.start()
        shell = Shell(machine)
        assert shell.ask(count) == "0\r\n"
        with machine.snapshot() as snapshot:
            with snapshot.clone() as clone:
                assert follow(clone).ask(until) == "1\r\n"
                clone.reset()
                assert follow(clone).ask(until) == "1\r\n"
            assert shell.ask(count) == "0\r\n"
            with snapshot.clone() as clone, clone.snapshot() as later:
                assert follow(clone).ask(until) == "1\r\n"
                with later.clone() as other:
                    follow(other).ask(until)


@pytest.mark.linux
@pytest.mark.hardware
def test_reboot_by_the_reset_register(tmp_path: Path) -> None:
    result, output = boot(tmp_path, "true", append="quiet reboot=acpi")
    assert "guest: reset" in output
    assert result.reason is ExitReason.RESET


@pytest.mark.linux
@pytest.mark.hardware
def test_acpi_off_boots_and_resets(tmp_path: Path) -> None:
    """By the PICs: Debian's cloud kernel has no CONFIG_X86_MPPARSE."""
    script = "dmesg | grep 'Using ACPI'; grep ttyS0 /proc/interrupts"
    result, output = boot(tmp_path, script, append="quiet acpi=off")
    assert "Using ACPI (MADT)" not in output
    assert re.search(r"\n +4: .*XT-PIC +ttyS0", output)
    assert result.reason is ExitReason.RESET


@pytest.mark.linux
@pytest.mark.hardware
def test_irq_0_is_where_the_madt_says_and_reboot_k_resets(tmp_path: Path) -> None:
    """Without the LAPIC's timer every tick comes by IRQ 0.

    Linux switches the PIT off where it sees a TSC deadline, even one that it then
    doesn't use (apic_needs_pit).
    """
    script = "grep -E 'timer|ttyS0' /proc/interrupts"
    result, output = boot(
        tmp_path, script, append="quiet nolapic_timer lapic=notscdeadline"
    )
    match = re.search(r" 0: +(\d+) +IO-APIC +(\d+)-edge +timer", output)
    assert match is not None
    assert int(match[1]) > 100
    assert match[2] == "0"
    assert result.reason is ExitReason.RESET
