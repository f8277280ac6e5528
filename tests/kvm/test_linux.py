"""Linux: our tiny kernel, and Debian's own, unmodified."""

import re
from pathlib import Path

import pytest
from guests import DEADLINE, built, with_script

from vmm import ExitReason, Machine, MachineConfig, RunResult

pytestmark = pytest.mark.linux

MARKER = "guest: userspace Linux "


def boot(**settings: object) -> tuple[RunResult, str]:
    """Boot to the end; the result and the console's text."""
    config = MachineConfig(timeout=DEADLINE, **settings)  # type: ignore[arg-type]
    with Machine(config) as machine:
        result = machine.run()
        return result, machine.console.read().decode()


def answers(output: str) -> list[str]:
    """What a script printed, which is all that carries no time stamp."""
    return [line for line in output.splitlines() if not line.startswith("[")]


def test_the_tiny_guest_is_the_default_and_resets() -> None:
    result, output = boot()
    assert "Linux version" in output
    # Our seed is trusted, so that getrandom() needn't wait.
    assert "[    0.000000] random: crng init done" in output
    assert MARKER in output
    assert output.index("guest: reset through the i8042") > output.index(MARKER)
    assert result.reason is ExitReason.RESET
    assert result.exit_code == 0
    assert result.detail == ""


def test_the_tiny_bzimage_decompresses_itself_or_is_unpacked_on_pvm() -> None:
    result, output = boot(
        kernel=built("bzImage-tiny"), initrd=built("initramfs-tiny.cpio")
    )
    assert MARKER in output
    assert result.reason is ExitReason.RESET


def test_the_kernel_boots_without_our_patches_too() -> None:
    """They spare instructions; nothing needs them."""
    result, output = boot(
        kernel=built("vmlinux-tiny-unpatched"),
        initrd=built("initramfs-tiny.cpio"),
        append="quiet",
    )
    assert MARKER in output
    assert result.reason is ExitReason.RESET


@pytest.mark.hardware
@pytest.mark.parametrize("image", ["bzImage-debian", "vmlinux-debian"])
def test_debians_kernel_runs_a_shell_script_in_256_mib(
    image: str, tmp_path: Path
) -> None:
    result, output = boot(
        kernel=built(image),
        initrd=with_script(
            tmp_path, "echo script runs on $(uname -r); dmesg | grep crng"
        ),
        memory="256M",
        append="quiet",
    )
    assert re.search(r"script runs on 6\.1\.\S+-cloud-amd64", output)
    assert "guest: status 0" in output
    # Our seed comes before the first interrupt could give any randomness.
    assert "[    0.000000] random: crng init done" in output
    assert result.reason is ExitReason.RESET


def test_a_script_with_pipes_forks_and_floating_point(tmp_path: Path) -> None:
    script = """
    seq 1 100 | awk '{ sum += $1 / 3 } END { printf "sum %.3f\\n", sum }'
    for n in 1 2 3; do (echo child $n) & wait; done
    exit 7
    """
    _, output = boot(initrd=with_script(tmp_path, script), append="quiet")
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
        initrd=with_script(tmp_path, "grep MemTotal /proc/meminfo"), memory="8G"
    )
    match = re.search(r"MemTotal: +(\d+) kB", output)
    assert match is not None
    assert int(match[1]) > 7.7 * 1024 * 1024
    assert "[mem 0x0000000100000000-0x000000021fffffff] usable" in output


def test_the_kernel_gets_its_command_line(tmp_path: Path) -> None:
    result, output = boot(
        initrd=with_script(tmp_path, "cat /proc/cmdline"), append="quiet word=1"
    )
    assert result.cmdline in answers(output)
    assert result.cmdline.endswith("console=ttyS0 reboot=k panic=-1 quiet word=1")


def test_a_kernel_panic_ends_with_34() -> None:
    result, output = boot(append="guest.exit")
    assert "Kernel panic - not syncing" in output
    assert result.reason is ExitReason.PANIC
    assert result.exit_code == 34
    assert "Attempted to kill init!" in result.detail


def test_reboot_by_triple_fault_is_a_crash() -> None:
    result, _ = boot(append="reboot=t")
    assert result.reason is ExitReason.CRASH
    assert result.exit_code == 33
    assert "triple fault" in result.detail


def test_restart_boots_linux_three_times() -> None:
    with Machine(MachineConfig(on_reset="restart", append="quiet")) as machine:
        machine.start()
        for _ in range(3):
            machine.console.expect(MARKER, timeout=DEADLINE)
        machine.stop()
        result = machine.wait(DEADLINE)
    assert result.resets >= 2
    assert result.reason is ExitReason.STOPPED


def test_the_uart_is_a_16550a_and_interrupts_per_fifo_load_at_most(
    tmp_path: Path,
) -> None:
    """16,000 bytes are 1,000 loads of 16; Linux does many of them per interrupt."""
    script = """
    before=$(grep ttyS0 /proc/interrupts | awk '{ print $2 }')
    stty -opost; yes | tr -d '\\n' | head -c 16000; stty opost
    after=$(grep ttyS0 /proc/interrupts | awk '{ print $2 }')
    echo; echo $((after - before)) interrupts
    """
    _, output = boot(initrd=with_script(tmp_path, script))
    assert "is a 16550A" in output
    match = re.search(r"^(\d+) interrupts", output, re.MULTILINE)
    assert match is not None
    assert 1 <= int(match[1]) <= 1000


def test_a_console_conversation_loses_nothing(tmp_path: Path) -> None:
    initrd = with_script(tmp_path, "while read line; do echo got $line; done")
    with Machine(MachineConfig(initrd=initrd, append="quiet")) as machine:
        machine.start()
        machine.console.expect(MARKER, timeout=DEADLINE)
        for n in range(50):
            machine.console.send(f"line {n}\n")
            machine.console.expect(f"got line {n}\r\n", timeout=DEADLINE)
        machine.console.send("\x04")  # end of file: the script ends
        assert machine.wait(DEADLINE).reason is ExitReason.RESET
