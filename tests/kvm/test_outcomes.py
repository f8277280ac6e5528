"""How a run ends: policies, panics at once, hangs, and what a report shows."""

import re
import struct
import subprocess
import time
from pathlib import Path

import pytest
from support.guests import DEADLINE, bare_machine, built, with_script

from vmm import ExitReason, Machine, MachineConfig, RunResult, VmmError
from vmm.devices.device_io import DeviceIo
from vmm.errors import ConfigError

PANIC = "Kernel panic - not syncing: bare guest"


def run(name: str, **settings: object) -> RunResult:
    """Run a bare guest to its end."""
    with bare_machine(name, timeout=DEADLINE, **settings) as machine:
        return machine.run()


# Panic


def test_a_panic_ends_the_run_though_the_guest_never_resets() -> None:
    result = run("panic-halt")
    assert (result.reason, result.exit_code) == (ExitReason.PANIC, 34)
    assert result.detail == f"{PANIC} (its CPUs halt with interrupts off)"
    assert result.resets == 0


def test_the_log_starts_with_the_oops_and_has_what_follows_the_panic() -> None:
    result = run("panic-halt")
    assert result.oops == f"BUG: bare guest\n{PANIC}\nthe rest of the report\n"


def test_a_guest_that_ends_well_has_neither_oops_nor_report() -> None:
    result = run("hello")
    assert (result.oops, result.report) == ("", "")


def test_on_panic_restart_boots_again_and_keeps_the_log() -> None:
    with bare_machine("panic-halt", on_panic="restart") as machine:
        machine.start()
        for _ in range(2):
            machine.console.expect("the rest of the report", timeout=DEADLINE)
        machine.stop()
        result = machine.wait(DEADLINE)
    assert result.reason is ExitReason.STOPPED
    assert result.resets >= 1
    assert PANIC in result.oops


def test_on_panic_restart_counts_for_a_panic_that_resets() -> None:
    with bare_machine("panic", on_panic="restart", on_reset="exit") as machine:
        machine.start()
        for _ in range(3):
            machine.console.expect(PANIC, timeout=DEADLINE)
        machine.stop()
        assert machine.wait(DEADLINE).resets >= 2


def test_words_of_a_panic_before_somebodys_halt_end_nobody(tmp_path: Path) -> None:
    """They stand where no kernel prints its own, and the guest does nothing more."""
    text = b"Kernel panic - not syncing: bare guest\n"
    quoted = b"quoted: Kernel panic - not syncing: xx\n"
    kernel = tmp_path / "quoted.elf"
    kernel.write_bytes(built("bare/panic-halt.elf").read_bytes().replace(text, quoted))
    with Machine(MachineConfig(kernel=kernel, timeout=1)) as machine:
        result = machine.run()
        assert quoted in machine.console.read()
    assert (result.reason, result.exit_code) == (ExitReason.TIMEOUT, 124)


def test_a_panic_that_nothing_shows_but_the_silence_after_it_is_one() -> None:
    """Its CPU isn't to be seen, as where KVM doesn't say: a hang is a sign, too."""
    with bare_machine("panic-halt", hang_s=0.5, timeout=DEADLINE) as machine:
        machine._state.look = lambda turn: None  # type: ignore[method-assign]
        result = machine.run()
    assert (result.reason, result.exit_code) == (ExitReason.PANIC, 34)
    assert result.detail == f"{PANIC} (nothing follows)"


# Pause


def test_a_paused_guest_shows_registers_memory_and_console() -> None:
    with bare_machine("panic-halt", on_panic="pause") as machine:
        machine.start()
        result = machine.wait(DEADLINE)
        guest = machine.paused
        assert guest is not None
        assert result.reason is ExitReason.PANIC
        registers = guest.registers()
        assert registers["cs"] == 0x10
        assert registers["cr0"] & 0x8000_0001 == 0x8000_0001  # PG, PE
        # RIP stands behind HLT, which the guest repeats.
        code = guest.read_virtual(registers["rip"] - 1, 3)
        assert code == guest.read_physical(registers["rip"] - 1, 3)
        assert code == b"\xf4\xeb\xfd"
        assert "vCPU 0:\nRIP: 0010:" in guest.report()
        assert PANIC.encode() in machine.console.read()


def test_a_paused_guest_ends_with_what_it_was_paused_for() -> None:
    with bare_machine("panic-halt", on_panic="pause") as machine:
        machine.start()
        result = machine.wait(DEADLINE)
        guest = machine.paused
        machine.stop()
        machine.join()
        assert machine.paused is None
        assert machine.wait(0) == result
        assert guest is not None
        with pytest.raises(VmmError, match="isn't paused any more"):
            guest.registers()
        with pytest.raises(VmmError, match="isn't paused"):
            machine.resume()


def test_a_guest_paused_by_a_reset_boots_again_when_resumed() -> None:
    with bare_machine("echo", on_reset="pause") as machine:
        machine.start()
        for resets in (1, 2):
            machine.console.expect("echo: ready", timeout=DEADLINE)
            machine.console.send("q")
            result = machine.wait(DEADLINE)
            assert (result.reason, result.resets) == (ExitReason.RESET, resets)
            machine.resume()
        machine.console.expect("echo: ready", timeout=DEADLINE)
        assert machine.paused is None


def test_a_guest_paused_by_a_panic_goes_on_when_resumed() -> None:
    """It sleeps until a key comes, and goes on with its next instruction."""
    with bare_machine("panic-echo", on_panic="pause", timeout=DEADLINE) as machine:
        machine.start()
        assert machine.wait(DEADLINE).reason is ExitReason.PANIC
        machine.resume()
        machine.console.send("x")
        machine.console.expect("still here", timeout=DEADLINE)
        assert machine.wait(DEADLINE).reason is ExitReason.PANIC  # its reset
        assert machine.paused is not None


def test_a_crash_pauses_where_it_happened() -> None:
    with bare_machine("bad-jump", on_crash="pause") as machine:
        machine.start()
        assert machine.wait(DEADLINE).reason is ExitReason.CRASH
        assert machine.paused is not None
        assert machine.paused.registers()["rip"] == 0xE800_0000
        with pytest.raises(VmmError, match="there is no vCPU 1: the guest has 1"):
            machine.paused.registers(cpu=1)


def test_on_crash_restart_boots_again() -> None:
    with bare_machine("triple-fault", on_crash="restart") as machine:
        machine.start()
        for _ in range(3):
            machine.console.expect("triple fault", timeout=DEADLINE)
        machine.stop()
        result = machine.wait(DEADLINE)
    assert result.reason is ExitReason.STOPPED
    assert result.resets >= 2


def test_the_timeout_takes_a_paused_guest_down() -> None:
    with bare_machine("panic-halt", on_panic="pause", timeout=2) as machine:
        result = machine.run()
        machine.join()
        assert machine.paused is None
    assert result.reason is ExitReason.PANIC


def test_a_running_guest_can_not_be_resumed() -> None:
    with bare_machine("spin") as machine:
        machine.start()
        with pytest.raises(VmmError, match="isn't paused"):
            machine.resume()


# Hang


@pytest.mark.parametrize("name", ["halt", "spin", "mute"])
def test_a_guest_that_does_nothing_hangs(name: str) -> None:
    result = run(name, hang_s=0.3)
    assert (result.reason, result.exit_code) == (ExitReason.HANG, 35)
    assert result.detail == "no console output and no exit for 0.3 s"
    assert "RFLAGS" in result.report


@pytest.mark.parametrize("name", ["flood", "poll"])
def test_a_guest_that_prints_or_exits_does_not_hang(name: str) -> None:
    with bare_machine(name, hang_s=0.2, serial="null") as machine:
        machine.start()
        with pytest.raises(TimeoutError):
            machine.wait(1)


def test_a_guest_held_by_a_slow_reader_does_not_hang(tmp_path: Path) -> None:
    with bare_machine(
        "flood", hang_s=0.2, serial=f"unix:{tmp_path}/console", serial_buffer="4K"
    ) as machine:
        machine.start()
        with pytest.raises(TimeoutError):
            machine.wait(1)


def test_a_paused_guest_does_not_hang() -> None:
    with bare_machine("panic-echo", on_panic="pause", hang_s=0.5) as machine:
        machine.start()
        machine.wait(DEADLINE)
        time.sleep(1)
        machine.resume()
        machine.console.send("x")
        machine.console.expect("still here", timeout=DEADLINE)


# The report


def test_the_report_shows_where_it_crashed() -> None:
    report = run("bad-jump").report
    assert "RIP: 0010:00000000e8000000" in report
    assert "RAX: 00000000e8000000" in report
    assert "EFER:" in report
    assert "Code: not mapped" in report
    assert re.search(r"^Stack:\n( [0-9a-f]{16}){4}$", report, re.MULTILINE)


def test_the_report_names_addresses_when_symbols_are_given(tmp_path: Path) -> None:
    table = tmp_path / "System.map"
    table.write_text("00000000e7fffff0 T nowhere\n00000000e8000100 T after\n")
    report = run("bad-jump", symbols=table).report
    assert "RIP: 0010:00000000e8000000 nowhere+0x10/0x110" in report


def test_symbols_that_are_none_are_refused_before_the_run(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("buy milk\n")
    with pytest.raises(ConfigError, match=r"^symbols '.*notes': neither a System.map"):
        bare_machine("hello", symbols=path)


class Confused(DeviceIo):
    """Has nothing to say about a crash, and not even that."""

    def get_report(self) -> str:
        raise ValueError("out of ink")


def test_a_report_that_can_not_be_made_changes_no_ones_course() -> None:
    with bare_machine("bad-jump", on_crash="restart") as machine:
        machine.plug(Confused())
        machine.start()
        for _ in range(3):
            machine.console.expect("bad jump", timeout=DEADLINE)
        machine.stop()
        result = machine.wait(DEADLINE)
    assert result.resets >= 2
    lines = result.report.splitlines()
    assert lines[1].startswith("RIP: 0010:00000000e8000000")
    assert "Confused has no report: ValueError: out of ink" in lines


def cut_symbols(path: Path) -> Path:
    """A kernel that crashes, whose symbol table ends behind the file."""
    source = Path(__file__).parents[2] / "guest/bare/triple-fault.S"
    gcc = "gcc -static -nostdlib -no-pie -Wl,-N,-Ttext=0x100000,--build-id=none -o"
    subprocess.run([*gcc.split(), path, source], check=True)
    image = bytearray(path.read_bytes())
    (headers,) = struct.unpack_from("<Q", image, 40)
    (count,) = struct.unpack_from("<H", image, 60)
    for start in range(headers, headers + 64 * count, 64):
        if struct.unpack_from("<I", image, start + 4)[0] == 2:  # SHT_SYMTAB
            struct.pack_into("<Q", image, start + 32, 24_000_000)
    path.write_bytes(image + b"x")
    return path


@pytest.mark.parametrize("table", [None, "0000000000100000 T _start\n00000000001000"])
def test_symbols_that_were_cut_spoil_neither_report_nor_policy(
    tmp_path: Path, table: str | None
) -> None:
    kernel = cut_symbols(tmp_path / "vmlinux")
    if table is not None:
        (tmp_path / "System.map").write_text(table)
    with Machine(MachineConfig(kernel=kernel, on_crash="restart")) as machine:
        machine.start()
        for _ in range(3):
            machine.console.expect("triple fault", timeout=DEADLINE)
        machine.stop()
        assert machine.wait(DEADLINE).reason is ExitReason.STOPPED
    with Machine(MachineConfig(kernel=kernel)) as machine:
        report = machine.run().report
    assert re.search(r"^RIP: 0010:0000000000100\w+", report, re.MULTILINE)
    assert ("_start+0x" in report) == (table is not None)
    with pytest.raises(ConfigError, match=r"vmlinux': was cut: its symbol table, "):
        Machine(MachineConfig(kernel=kernel, symbols=kernel))


# Linux


@pytest.mark.linux
def test_words_of_a_panic_in_a_commands_output_are_output() -> None:
    """On the console, by printk, and in dmesg; asleep, and at work."""
    words = "Kernel panic - not syncing: quoted"
    command = f"echo {words}; echo {words} >/dev/kmsg; dmesg; sleep 1; echo {words}; "
    command += "n=0; while [ $n -lt 50000 ]; do n=$((n+1)); done; exit 3"
    config = MachineConfig(
        command=["sh", "-c", command], append="quiet", timeout=DEADLINE
    )
    with Machine(config) as machine:
        result = machine.run()
        assert machine.console.read().count(words.encode()) >= 3
    assert (result.reason, result.exit_code) == (ExitReason.EXITED, 3)


@pytest.mark.linux
def test_a_restart_after_words_of_a_panic_is_a_reset(tmp_path: Path) -> None:
    script = with_script(tmp_path, "echo Kernel panic - not syncing: quoted")
    config = MachineConfig(initrd=script, append="quiet", timeout=DEADLINE)
    with Machine(config) as machine:
        result = machine.run()
    assert (result.reason, result.exit_code) == (ExitReason.RESET, 0)
    assert result.detail == ""


@pytest.mark.linux
@pytest.mark.both
def test_linux_that_panics_and_waits_for_ever_ends_with_its_report() -> None:
    config = MachineConfig(
        append="quiet guest.exit panic=0", timeout=DEADLINE, on_panic="pause"
    )
    with Machine(config) as machine:
        result = machine.run()
        assert result.reason is ExitReason.PANIC
        assert result.detail.endswith(" (its kernel spins in a delay loop)")
        assert "Attempted to kill init!" in result.oops.splitlines()[0]
        assert "end Kernel panic" in result.oops
        assert machine.paused is not None
        assert "+0x" in machine.paused.report()  # System.map-tiny stands beside
