"""Bare-metal guests: each part of the machine, used by a few instructions."""

import re

import pytest
from support.guests import DEADLINE, bare_machine

from scripts.with_kvm.host_kvm import HostKvm
from vmm import ExitReason, RunResult
from vmm.host.probe import runs_fwait
from vmm.kvm.kvm import Kvm
from vmm.result import EXIT_CODES


def run(name: str, **settings: object) -> tuple[RunResult, str]:
    """Run a bare guest to its end; its result and all that it printed."""
    with bare_machine(name, timeout=DEADLINE, **settings) as machine:
        machine.start()
        result = machine.wait()
        return result, machine.console.read().decode()


def test_polled_serial_prints_and_the_guest_resets() -> None:
    result, output = run("hello")
    assert output == "hello from the bare guest\n"
    assert result.reason is ExitReason.RESET
    assert result.exit_code == 0
    assert result.resets == 1


def test_fwait_goes_on_and_int3_raises_bp() -> None:
    """On PVM by its quirks, elsewhere because the CPU does it."""
    result, output = run("traps")
    assert output == "fwait goes on\nint3 raises #BP behind itself\n"
    assert result.reason is ExitReason.RESET


def test_without_quirks_pvm_ends_with_the_instruction_it_lacks(
    kvm_here: HostKvm,
) -> None:
    result, output = run("traps", quirks="none")
    if kvm_here.kind != "pvm":
        assert result.reason is ExitReason.RESET
        return
    assert (result.reason, result.exit_code) == (ExitReason.CRASH, 33)
    assert "emulation failure at RIP 0x10" in result.detail
    assert "instruction bytes 9b " in result.detail
    assert output == ""


@pytest.mark.parametrize("name", ["reset", "reset-pulse", "reset-output-port"])
def test_every_i8042_reset_acts_before_the_next_instruction(name: str) -> None:
    result, output = run(name)
    assert result.reason is ExitReason.RESET
    assert output == ""
    assert result.console_bytes == 0
    assert result.first_output_s is None


def test_rx_interrupts_bring_input_to_the_guest() -> None:
    with bare_machine("echo", timeout=DEADLINE) as machine:
        machine.start()
        machine.console.expect("echo: ready\n", timeout=DEADLINE)
        machine.console.send("hello over IRQ 4")
        machine.console.expect("hello over IRQ 4", timeout=DEADLINE)
        machine.console.send("q")
        assert machine.wait(DEADLINE).reason is ExitReason.RESET


def test_each_rtc_interrupt_comes_on_irq_8() -> None:
    result, output = run("rtc")
    assert result.reason is ExitReason.RESET
    # Other flags are set whenever their event comes, enabled or not.
    periodic, update, alarm = (int(line.split()[1], 16) for line in output.splitlines())
    assert periodic & 0xC0 == 0xC0
    assert update & 0x90 == 0x90
    assert alarm & 0xA0 == 0xA0


def test_string_io_moves_every_byte_of_one_exit() -> None:
    result, output = run("string-io")
    assert result.reason is ExitReason.RESET
    assert output.splitlines() == [
        "rep outsb works",
        "insb 5a 5a 5a 5a",
        "insw ffff ffff",
        "insl ffffffff",
    ]


def test_unclaimed_mmio_reads_all_ones() -> None:
    result, output = run("mmio")
    assert output.splitlines() == [
        "mmio 1 ff",
        "mmio 2 ffff",
        "mmio 4 ffffffff",
        "mmio 8 ffffffffffffffff",
    ]
    assert result.exits["mmio"] >= 8
    assert result.unclaimed_accesses >= 8


@pytest.mark.parametrize(("memory", "value"), [("128M", "ff"), ("4G", "a5")])
def test_ram_above_the_hole_starts_at_4_gib(memory: str, value: str) -> None:
    _, output = run("memtop", memory=memory)
    assert output == f"memtop {value}\n"


def test_triple_fault_is_a_crash() -> None:
    result, output = run("triple-fault")
    assert output == "triple fault\n"
    assert result.reason is ExitReason.CRASH
    assert result.exit_code == 33
    assert "triple fault" in result.detail
    assert "RIP" in result.detail


def test_emulation_failure_is_a_crash_that_names_rip_and_bytes() -> None:
    result, _ = run("bad-jump")
    assert result.reason is ExitReason.CRASH
    assert "RIP 0xe8000000" in result.detail
    assert "instruction bytes" in result.detail


def test_a_reset_after_a_panic_line_is_a_panic() -> None:
    result, _ = run("panic")
    assert result.reason is ExitReason.PANIC
    assert result.exit_code == EXIT_CODES[ExitReason.PANIC] == 34
    assert result.detail == ("Kernel panic - not syncing: bare guest (a reset follows)")


@pytest.mark.parametrize("name", ["spin", "halt", "flood"])
def test_a_guest_that_never_ends_is_stopped(name: str) -> None:
    with bare_machine(name) as machine:
        machine.start()
        machine.console.expect(name, timeout=DEADLINE)
        machine.stop("enough")
        result = machine.wait(DEADLINE)
    assert result.reason is ExitReason.STOPPED
    assert result.detail == "enough"


@pytest.mark.parametrize("name", ["spin", "halt"])
def test_a_guest_that_never_ends_times_out(name: str) -> None:
    with bare_machine(name, timeout=0.3) as machine:
        machine.start()
        result = machine.wait(DEADLINE)
    assert result.reason is ExitReason.TIMEOUT
    assert result.exit_code == 124


def test_an_instruction_that_no_quirk_has_names_itself_and_the_quirks(
    kvm_here: HostKvm,
) -> None:
    result, output = run("popcnt")
    if kvm_here.kind != "pvm":
        assert output == "popcnt counts\n"
        return
    assert (result.reason, result.exit_code, output) == (ExitReason.CRASH, 33, "")
    assert re.fullmatch(
        r"emulation failure at RIP 0x10[0-9a-f]{4}, instruction bytes f3 0f b8 c0 .*; "
        r"PVM quirks: cpuid 1, cmdline 1, unpack 0, int3 0, fwait 0, syscall 0",
        result.detail,
    )


def test_a_32_bit_guest_that_writes_lstar_is_left_alone() -> None:
    result, output = run("lstar32")
    assert output == "written\nhandler went on\n"
    assert result.reason is ExitReason.RESET


def test_a_probe_finds_the_kind_of_kvm(kvm_here: HostKvm) -> None:
    with Kvm() as kvm:
        assert runs_fwait(kvm) == (kvm_here.kind == "hardware")


def test_the_result_has_how_many_instructions_were_emulated(kvm_here: HostKvm) -> None:
    emulated = run("hello")[0].insn_emulation
    accesses = len("hello from the bare guest\n")
    if kvm_here.kind == "pvm":  # all that it runs
        assert emulated > 10 * accesses
    else:  # port I/O of a byte is decoded by the CPU
        assert emulated < accesses
