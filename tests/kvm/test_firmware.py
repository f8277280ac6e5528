"""What a PC's firmware leaves, found by guests that look for it; ways to reset."""

import pytest
from support.guests import DEADLINE, bare_machine, built

from vmm import ExitReason, Machine, MachineConfig, RunResult


def run(name: str, **settings: object) -> tuple[RunResult, list[str]]:
    """Run a bare guest to its end; its result and the lines that it printed."""
    with bare_machine(name, timeout=DEADLINE, **settings) as machine:
        result = machine.run()
        return result, machine.console.read().decode().splitlines()


def test_a_guest_finds_memory_mp_table_and_pics_where_a_pc_has_them() -> None:
    result, output = run("firmware", memory="64M")
    assert output == [
        "com 03f8",
        "ebda 9fc0",
        "base 027f",
        "ebda size 01",
        "mp 000f0000",
        "cmos 0280 fc00 fc00 0300 000000",
        "masks f8 fe",
        "irq 8 at 70",
    ]
    assert result.reason is ExitReason.RESET


def test_it_is_all_there_again_after_a_reset() -> None:
    with bare_machine("firmware", timeout=DEADLINE, on_reset="restart") as machine:
        machine.start()
        for _ in range(2):
            machine.console.expect("irq 8 at 70\n", timeout=DEADLINE)
        machine.stop()


def test_real_mode_code_finds_vectors_and_the_reset() -> None:
    result, output = run("real-mode")
    assert output == ["real mode", "a service fails", "two interrupts"]
    assert result.reason is ExitReason.RESET


def test_a_triple_fault_of_which_firmware_was_told_is_a_reset() -> None:
    result, _ = run("told-reset")
    assert (result.reason, result.exit_code) == (ExitReason.RESET, 0)


@pytest.mark.linux
@pytest.mark.hardware
@pytest.mark.parametrize("way", ["b", "e"])
def test_linux_resets_by_the_bios_and_by_efi(way: str) -> None:
    """The other ways of arch/x86/kernel/reboot.c are tested with what does them."""
    config = MachineConfig(
        kernel=built("vmlinux-tiny"),
        initrd=built("initramfs-tiny.cpio"),
        cmdline=f"console=ttyS0 quiet panic=-1 reboot={way}",
        timeout=DEADLINE,
    )
    with Machine(config) as machine:
        result = machine.run()
        output = machine.console.read().decode()
    assert (result.reason, result.resets) == (ExitReason.RESET, 1), output
