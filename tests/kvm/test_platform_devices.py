"""The small devices of a PC's board, each used by a guest of a few instructions."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.guests import DEADLINE, bare, bare_machine

from vmm import ExitReason, Machine, MachineConfig, RunResult
from vmm.errors import ConfigError
from vmm.watch.panic import TOLD

PANIC = "Kernel panic - not syncing: bare guest"


def run(name: str, **settings: object) -> tuple[RunResult, list[str]]:
    """Run a bare guest to its end; its result and the lines that it printed."""
    with bare_machine(name, timeout=DEADLINE, **settings) as machine:
        result = machine.run()
        return result, machine.console.read().decode().splitlines()


# Debug exit


@pytest.mark.parametrize("port", [0x501, 0xF4])
def test_a_write_to_the_debug_exit_port_is_the_status_as_qemu_has_it(port: int) -> None:
    result, output = run("debug-exit", debug_exit=port)
    assert (result.reason, result.exit_code) == (ExitReason.EXITED, 0x21)
    assert result.guest_status == 0x21
    assert result.detail == "0x10 was written to the debug-exit port"
    assert output == []


def test_without_debug_exit_nobody_is_at_its_port() -> None:
    result, output = run("debug-exit")
    assert (result.reason, result.guest_status) == (ExitReason.RESET, None)
    assert output == ["no debug exit"]
    assert result.unclaimed_accesses == 2


@pytest.mark.parametrize("given", [["--debug-exit"], ["--debug-exit=0xf4"]])
def test_debug_exit_from_the_shell(given: list[str]) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "vmm",
            "run",
            "--kernel",
            str(bare("debug-exit")),
            *given,
        ],
        capture_output=True,
        timeout=DEADLINE,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0x21
    assert done.stderr.startswith(
        b"vmm: the guest has ended the run: 0x10 was written to the debug-exit port ("
    )


@pytest.mark.parametrize("port", [0x3FB, 0x1E, 0x20, 0x40, 0x5E, 0xA0, 0x4D0])
def test_a_debug_exit_port_that_is_taken_is_refused_with_its_numbers(port: int) -> None:
    """By a device, or by KVM, whose PICs and timer no write would ever leave."""
    numbers = rf"{port:#x}\.\.{port + 3:#x} "
    with pytest.raises(ConfigError, match=f"^debug_exit: .* {numbers}"):
        bare_machine("hello", debug_exit=port)


def test_a_debug_console_whose_port_is_taken_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^debugcon: .* 0xe9\.\.0xe9 "):
        bare_machine("hello", debug_exit=0xE9, debugcon="null")


# Debug console


def test_port_e9_goes_where_debugcon_says() -> None:
    with bare_machine("debugcon", debugcon="capture", timeout=DEADLINE) as machine:
        result = machine.run()
        assert machine.debugcon is not None
        assert machine.debugcon.read() == b"hello by 0xe9\n"
        assert machine.console.read() == b"e9 reads e9\n"
    assert (result.reason, result.unclaimed_accesses) == (ExitReason.RESET, 0)


def test_without_debugcon_nobody_is_at_port_e9() -> None:
    result, output = run("debugcon")
    assert output == ["e9 reads ff"]
    assert result.unclaimed_accesses == 1 + len("hello by 0xe9\n")


@pytest.mark.parametrize("where", ["stdio", "file:e9"])
def test_debugcon_from_the_shell(where: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vmm", "run", "--serial=null", "--debugcon", where]
    done = subprocess.run(
        [*command, "--kernel", str(bare("debugcon"))],
        capture_output=True,
        timeout=DEADLINE,
        stdin=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    file = tmp_path / "e9"
    written = file.read_bytes() if file.exists() else done.stdout
    assert (done.returncode, written) == (0, b"hello by 0xe9\n")


# CRT controller


def test_the_cursor_is_where_it_was_put_though_nothing_is_displayed() -> None:
    result, output = run("cursor")
    assert output == ["at 0000", "at 07cf", "retrace"]
    assert result.unclaimed_accesses == 0


# pvpanic


def test_a_panic_told_by_pvpanic_ends_the_run_though_the_console_is_mute() -> None:
    result, output = run("pvpanic")
    assert (result.reason, result.exit_code) == (ExitReason.PANIC, 34)
    assert result.detail == TOLD
    assert output == ["events 03"]


def test_a_crash_kernel_has_its_time_and_the_end_is_still_a_panic() -> None:
    with bare_machine("crash-kernel", timeout=DEADLINE) as machine:
        machine.start()
        machine.console.expect(PANIC, timeout=DEADLINE)
        time.sleep(1)  # more than a panic has
        machine.console.send("x")
        machine.console.expect("the dump is written", timeout=DEADLINE)
        result = machine.wait(DEADLINE)
    assert result.reason is ExitReason.PANIC
    assert result.detail == f"{PANIC} (pvpanic tells of it)"
    assert result.resets == 1


# POST codes


def test_the_last_post_code_is_in_the_report_of_a_crash() -> None:
    result, output = run("post-code")
    assert result.reason is ExitReason.CRASH
    assert output == ["post 7e"]
    assert "POST code (port 0x80): 0x7f" in result.report.splitlines()
    assert result.unclaimed_accesses == 0


# The chipset


@pytest.mark.parametrize("name", ["reset-port-a", "reset-cf9-hard", "reset-cf9-soft"])
def test_every_chipset_reset_acts_before_the_next_instruction(name: str) -> None:
    result, output = run(name)
    assert result.reason is ExitReason.RESET
    assert output == []


def test_a_chipset_reset_leaves_the_chipset_ready_for_the_next() -> None:
    with bare_machine("reset-cf9-hard", on_reset="restart", serial="null") as machine:
        machine.start()
        time.sleep(0.5)
        machine.stop()
        assert machine.wait(DEADLINE).resets >= 2


def test_a20_reset_control_and_a_bus_that_isnt_there() -> None:
    result, output = run("chipset")
    assert result.reason is ExitReason.RESET
    assert output == [
        "a20 02",
        "a20 00",
        "cf9 0a",
        "type 1 ffffffff",
        "type 2 ff",
        "vendor ffffffff",
    ]
    assert result.unclaimed_accesses == 0


def test_port_61_has_gate_data_refresh_toggle_and_output_of_timer_2() -> None:
    result, output = run("speaker")
    assert result.reason is ExitReason.RESET
    assert output == ["gate 01 data 02", "refresh toggles", "out 00 then 20"]
    assert result.unclaimed_accesses == 0


# Linux


@pytest.mark.linux
@pytest.mark.both
@pytest.mark.parametrize("mode", ["", ",warm"])
def test_linux_resets_by_port_0xcf9(mode: str) -> None:
    """reboot=p: arch/x86/kernel/reboot.c, BOOT_CF9_FORCE."""
    cmdline = f"console=ttyS0 quiet reboot=p{mode} panic=-1"
    config = MachineConfig(cmdline=cmdline, timeout=DEADLINE)
    with Machine(config) as machine:
        result = machine.run()
    assert result.reason is ExitReason.RESET
