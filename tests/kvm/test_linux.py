"""Linux: our tiny kernel, and Debian's own, unmodified."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.guests import DEADLINE, Shell, built, with_script

from vmm import ExitReason, Machine, MachineConfig, RunResult
from vmm.testing import VmFactory

pytestmark = pytest.mark.linux

MARKER = "guest: userspace Linux "
Each = Callable[[str], Path]


def boot(**settings: object) -> tuple[RunResult, str]:
    """Boot to the end; the result and the console's text."""
    config = MachineConfig(timeout=DEADLINE, **settings)  # type: ignore[arg-type]
    with Machine(config) as machine:
        result = machine.run()
        return result, machine.console.read().decode()


def tiny(each: Each) -> dict[str, object]:
    """The tiny kernel and its initramfs."""
    return {"kernel": each("vmlinux-tiny"), "initrd": built("initramfs-tiny.cpio")}


def answers(output: str) -> list[str]:
    """What a script printed, which is all that carries no time stamp."""
    return [line for line in output.splitlines() if not line.startswith("[")]


@pytest.mark.both
def test_the_tiny_guest_is_the_default() -> None:
    result, output = boot()
    assert MARKER in output
    assert result.reason is ExitReason.RESET


@pytest.mark.both
def test_the_tiny_guest_boots_and_resets(each: Each) -> None:
    result, output = boot(**tiny(each))
    assert "Linux version" in output
    # Our seed is trusted, so that getrandom() needn't wait.
    assert "[    0.000000] random: crng init done" in output
    assert MARKER in output
    assert output.index("guest: reset through the i8042") > output.index(MARKER)
    assert result.reason is ExitReason.RESET
    assert result.exit_code == 0
    assert result.detail == ""


@pytest.mark.both
def test_the_tiny_bzimage_decompresses_itself_or_is_unpacked_on_pvm(each: Each) -> None:
    result, output = boot(
        kernel=each("bzImage-tiny"), initrd=built("initramfs-tiny.cpio")
    )
    assert MARKER in output
    assert result.reason is ExitReason.RESET


@pytest.mark.stock
@pytest.mark.long
def test_the_kernel_boots_without_our_patches_too() -> None:
    """They spare emulated instructions; nothing needs them."""
    result, output = boot(
        kernel=built("vmlinux-tiny-unpatched"),
        initrd=built("initramfs-tiny.cpio"),
        append="quiet",
    )
    assert MARKER in output
    assert result.reason is ExitReason.RESET


@pytest.mark.hardware
@pytest.mark.parametrize("image", ["bzImage-debian", "vmlinux-debian"])
def test_debians_kernel_runs_a_script_in_256_mib_and_touches_little_else(
    image: str, tmp_path: Path
) -> None:
    result, output = boot(
        kernel=built(image),
        initrd=with_script(
            tmp_path, "echo script runs on $(uname -r); dmesg | grep -E 'crng|PCI'"
        ),
        memory="256M",
        append="quiet",
    )
    assert re.search(r"script runs on 6\.1\.\S+-cloud-amd64", output)
    assert "guest: status 0" in output
    # Our seed comes before the first interrupt could give any randomness.
    assert "[    0.000000] random: crng init done" in output
    assert "System does not support PCI" in output
    assert result.unclaimed_accesses <= 20  # probes for COM2 to COM4
    assert result.reason is ExitReason.RESET


@pytest.mark.both
def test_a_script_with_pipes_forks_and_floating_point(
    each: Each, tmp_path: Path
) -> None:
    script = """
    seq 1 100 | awk '{ sum += $1 / 3 } END { printf "sum %.3f\\n", sum }'
    for n in 1 2 3; do (echo child $n) & wait; done
    exit 7
    """
    _, output = boot(
        kernel=each("vmlinux-tiny"),
        initrd=with_script(tmp_path, script),
        append="quiet",
    )
    lines = answers(output)
    assert "sum 1683.333" in lines
    assert [line for line in lines if "child" in line] == [
        "child 1",
        "child 2",
        "child 3",
    ]
    assert "guest: status 7" in lines


@pytest.mark.hardware  # two million page structs, emulated, take minutes
def test_8_gib_are_all_there(tmp_path: Path) -> None:
    _, output = boot(
        initrd=with_script(
            tmp_path, "grep MemTotal /proc/meminfo; dmesg | grep usable"
        ),
        append="quiet",
        memory="8G",
    )
    match = re.search(r"MemTotal: +(\d+) kB", output)
    assert match is not None
    assert int(match[1]) > 7.7 * 1024 * 1024
    assert "[mem 0x0000000100000000-0x000000021fffffff] usable" in output


@pytest.mark.both
def test_a_kernel_panic_ends_with_34(each: Each) -> None:
    result, output = boot(**tiny(each), append="guest.exit")
    assert "Kernel panic - not syncing" in output
    assert result.reason is ExitReason.PANIC
    assert result.exit_code == 34
    assert "Attempted to kill init!" in result.detail


@pytest.mark.both
def test_reboot_by_triple_fault_is_a_reset(each: Each) -> None:
    """As Linux has told the BIOS before it: a triple fault else is a crash."""
    result, _ = boot(**tiny(each), append="quiet reboot=t")
    assert result.reason is ExitReason.RESET
    assert (result.exit_code, result.resets) == (0, 1)


@pytest.mark.both
def test_restart_boots_linux_three_times(each: Each) -> None:
    config = MachineConfig(**tiny(each), on_reset="restart", append="quiet")  # type: ignore[arg-type]
    with Machine(config) as machine:
        machine.start()
        for _ in range(3):
            machine.console.expect(MARKER, timeout=DEADLINE)
        machine.stop()
        result = machine.wait(DEADLINE)
    assert result.resets >= 2
    assert result.reason is ExitReason.STOPPED


@pytest.fixture(scope="class")
def shell(vm_class: VmFactory) -> Shell:
    machine = vm_class(initrd=built("initramfs-busybox.cpio"))
    machine.start()
    return Shell(machine)


@pytest.mark.both
@pytest.mark.vmm(append="quiet guest.shell", deadline=2 * DEADLINE)
class TestShell:
    """What one guest shows to one who types."""

    def test_uart_is_a_16550a(self, shell: Shell) -> None:
        assert "is a 16550A" in shell.ask("dmesg | grep ttyS0")

    def test_16550a_interrupts_per_load_of_its_fifo_at_most(self, shell: Shell) -> None:
        """4,000 bytes are 250 loads of 16; Linux does many of them per interrupt."""
        count = "awk '/ttyS0/ { print $2 }' /proc/interrupts"
        before = int(shell.ask(count))
        shell.ask("awk 'BEGIN { printf \"%4000s\", 0 }' > /text; cat /text")
        assert 1 <= int(shell.ask(count)) - before <= 250

    def test_conversation_loses_nothing(self, shell: Shell) -> None:
        for number in range(50):
            assert shell.ask(f"echo $(({number} * 7))") == f"{7 * number}\r\n"

    def test_break_makes_the_next_key_a_sysrq_command(self, shell: Shell) -> None:
        console = shell.machine.console
        console.send("echo not ")
        console.send_break()
        console.send("hdone\n")
        console.expect(re.compile(rb"sysrq: HELP : .*\r\n"), DEADLINE)
        assert console.expect(Shell.PROMPT, DEADLINE).before == b"not done\r\n"

    def test_without_acpi_the_mp_table_tells_of_the_ioapic(self, shell: Shell) -> None:
        """The tiny kernel knows no ACPI."""
        interrupts = shell.ask("cat /proc/interrupts")
        assert re.search(r"\n +4: .*IO-APIC +4-edge +ttyS0", interrupts)

    def test_it_ends_and_the_result_has_its_command_line(self, shell: Shell) -> None:
        shown = shell.ask("cat /proc/cmdline").rstrip()
        shell.machine.console.sendline("exit")
        result = shell.machine.wait(DEADLINE)
        assert result.reason is ExitReason.RESET
        assert result.cmdline == shown
        assert shown.endswith("console=ttyS0 reboot=k panic=-1 quiet guest.shell")
