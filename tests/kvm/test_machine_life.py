"""A machine's life: start, restart, stop, and nothing left behind."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.guests import (
    DEADLINE,
    bare,
    bare_machine,
    process_status,
    wait_until,
)
from support.open_fds import open_fds

from vmm import (
    ExitReason,
    GuestEnded,
    Machine,
    MachineConfig,
    RunResult,
    VmmError,
)
from vmm.console.console import Console
from vmm.errors import KvmError
from vmm.machine.registry import close_all

GROWTH = 16 << 10  # KiB that malloc may add; the RAM of one guest is 128 MiB


def test_restart_boots_again_without_growth() -> None:
    with bare_machine("echo", on_reset="restart") as machine:
        machine.start()
        machine.console.expect("echo: ready", timeout=DEADLINE)
        descriptors, threads = open_fds(), threading.active_count()
        size = process_status("VmSize")
        for _ in range(3):
            machine.console.send("q")
            machine.console.expect("echo: ready", timeout=DEADLINE)
            assert len(open_fds()) == len(descriptors)
            assert threading.active_count() == threads
            assert process_status("VmSize") <= size + GROWTH
        machine.stop()
        result = machine.wait(DEADLINE)
    assert result.reason is ExitReason.STOPPED
    assert result.resets == 3


def test_restart_gives_the_guest_zeroed_ram() -> None:
    with bare_machine("hello", on_reset="restart") as machine:
        machine.memory.write(0x80000, b"left by the boot before")
        machine.start()
        for _ in range(2):
            machine.console.expect("hello", timeout=DEADLINE)
        machine.stop()
        machine.wait(DEADLINE)
        assert machine.memory.read(0x80000, 4) == bytes(4)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Machine, Path]]:
    """A guest that restarts on a q, and its kernel, of which this is the only copy."""
    kernel = tmp_path / "kernel.elf"
    shutil.copy(bare("echo"), kernel)
    with Machine(MachineConfig(kernel=kernel, on_reset="restart")) as machine:
        machine.start()
        machine.console.expect("echo: ready", timeout=DEADLINE)
        yield machine, kernel


def test_kernel_that_is_replaced_boots_again_as_it_was(
    running: tuple[Machine, Path],
) -> None:
    machine, kernel = running
    kernel.unlink()
    kernel.write_bytes(b"another one")
    machine.console.send("q")
    machine.console.expect("echo: ready", timeout=DEADLINE)


def test_kernel_that_is_truncated_harms_nobody_until_it_is_loaded_again(
    running: tuple[Machine, Path],
) -> None:
    machine, kernel = running
    os.truncate(kernel, 100)
    machine.console.send("still there")
    machine.console.expect("still there", timeout=DEADLINE)
    machine.console.send("q")
    result = machine.wait(DEADLINE)
    assert result.reason is ExitReason.ERROR
    assert result.detail.startswith(
        f"kernel {str(kernel)!r}: can't be loaded: the file"
    )


def test_a_panic_ends_a_machine_that_restarts() -> None:
    with bare_machine("panic", on_reset="restart") as machine:
        machine.start()
        assert machine.wait(DEADLINE).reason is ExitReason.PANIC


def run_to_end(results: list[RunResult]) -> None:
    with bare_machine("hello") as machine:
        results.append(machine.run())


def test_fifty_machines_leave_nothing_behind() -> None:
    results: list[RunResult] = []
    run_to_end(results)  # what is opened once stays open: warm up
    descriptors, threads = open_fds(), threading.active_count()
    size = process_status("VmSize")
    for _ in range(50):
        run_to_end(results)
    assert open_fds() == descriptors
    assert threading.active_count() == threads
    assert process_status("VmSize") <= size + GROWTH
    assert {result.reason for result in results} == {ExitReason.RESET}


def test_a_machine_runs_in_a_worker_thread() -> None:
    results: list[RunResult] = []
    worker = threading.Thread(target=run_to_end, args=(results,))
    worker.start()
    worker.join(DEADLINE)
    assert [result.reason for result in results] == [ExitReason.RESET]


def test_two_machines_run_side_by_side() -> None:
    with bare_machine("echo") as one, bare_machine("echo") as two:
        for machine in (one, two):
            machine.start()
            machine.console.expect("ready", timeout=DEADLINE)
        one.console.send("one")
        two.console.send("two")
        one.console.expect("one", timeout=DEADLINE)
        two.console.expect("two", timeout=DEADLINE)


def test_stop_150_times_is_never_lost() -> None:
    for _ in range(150):
        with bare_machine("spin") as machine:
            machine.start()
            machine.stop()
            assert machine.wait(DEADLINE).reason is ExitReason.STOPPED


def test_leaving_the_block_stops_the_guest() -> None:
    with bare_machine("spin") as machine:
        machine.start()
    assert machine.wait(0).reason is ExitReason.STOPPED


def test_a_machine_starts_once() -> None:
    with bare_machine("spin") as machine:
        machine.start()
        with pytest.raises(VmmError, match="started already"):
            machine.start()


def test_a_machine_that_never_started_closes() -> None:
    machine = bare_machine("spin")
    machine.close()
    machine.close()


def test_wait_that_times_out_leaves_the_guest_running() -> None:
    with bare_machine("echo") as machine:
        machine.start()
        with pytest.raises(TimeoutError, match="still runs"):
            machine.wait(0.01)
        machine.console.send("q")
        assert machine.wait(DEADLINE).reason is ExitReason.RESET


def test_expect_on_a_guest_that_has_ended_says_so_at_once() -> None:
    with bare_machine("hello") as machine:
        machine.start()
        with pytest.raises(GuestEnded, match="goodbye") as caught:
            machine.console.expect("goodbye", timeout=DEADLINE)
        assert caught.value.result.reason is ExitReason.RESET
        machine.console.expect("hello")  # what it did print is still there


def test_a_flood_that_nobody_reads_neither_blocks_nor_grows_us(tmp_path: Path) -> None:
    fifo = tmp_path / "console"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    settings = {"serial": f"file:{fifo}", "serial_buffer": "4K"}
    with bare_machine("flood", **settings) as machine:
        machine.start()
        sink = machine.console.sink
        wait_until(lambda: len(sink) == 4096, "the sink to be full")
        size = process_status("VmRSS")
        before = machine.exits["io"]
        wait_until(lambda: machine.exits["io"] > before + 5000, "more exits")
        assert process_status("VmRSS") <= size + 1024
        assert len(sink) == 4096
        machine.stop()
        assert machine.wait(DEADLINE).reason is ExitReason.STOPPED
    os.close(reader)


# A result, whatever fails


def test_counts_that_nobody_tells_fail_no_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes a descriptor to ask KVM for them, and there may be none left."""

    def refuse(vcpu: object) -> dict[str, int]:
        raise KvmError(24, "KVM_GET_STATS_FD failed: Too many open files")

    monkeypatch.setattr("vmm.kvm.vcpu.Vcpu.stats", refuse)
    with bare_machine("hello") as machine:
        result = machine.run()
    assert (result.reason, result.insn_emulation) == (ExitReason.RESET, 0)


@pytest.mark.parametrize(
    "part", ["machine.lifecycle.Lifecycle._totals", "console.console.Console.finish"]
)
def test_who_waits_gets_a_result_whatever_fails_and_no_vm_is_left(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("out of order")

    def kvm_descriptors() -> int:
        return sum("kvm" in link for link in open_fds().values())

    before = kvm_descriptors()
    monkeypatch.setattr(f"vmm.{part}", fail)
    with bare_machine("hello") as machine:
        result = machine.run()
    assert (result.reason, result.exit_code) == (ExitReason.ERROR, 1)
    assert result.detail == "ValueError: out of order"
    assert kvm_descriptors() == before


# A program that doesn't close its machine, or forks


def script(text: str) -> subprocess.CompletedProcess[str]:
    """Run Python lines that have a `kernel(name)`."""
    head = f"""
import os, sys
from vmm import Machine, MachineConfig
from vmm.errors import VmmError
kernel = {str(bare("spin").parent)!r} + "/{{}}.elf"
"""
    return subprocess.run(
        [sys.executable, "-c", head + text],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def test_a_program_that_raises_with_its_machine_open_ends_and_the_guest_with_it(
    tmp_path: Path,
) -> None:
    done = script(f"""
machine = Machine(MachineConfig(kernel=kernel.format("spin"), tee="unix:{tmp_path}/s"))
machine.start()
machine.console.expect("spin", timeout={DEADLINE})
assert os.path.exists("{tmp_path}/s")
raise SystemExit("an assertion of my script failed")
""")
    assert (done.returncode, done.stderr) == (1, "an assertion of my script failed\n")
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_has_no_part_in_the_machine(tmp_path: Path) -> None:
    """It leaves the block, and its end is its own; the parent's console listens on."""
    done = script(f"""
tee = "unix:{tmp_path}/s"
config = MachineConfig(kernel=kernel.format("echo"), tee=tee, debugcon="capture")
with Machine(config) as machine:
    machine.start()
    machine.console.expect("ready", timeout={DEADLINE})
    child = os.fork()
    if child == 0:
        machine.stop()
        machine.join()
        calls = [machine.wait, machine.start]
        calls += [lambda: machine.console.send("x"), lambda: machine.debugcon.read()]
        for call in calls:
            try:
                call()
            except VmmError as error:
                print(error, flush=True)
        links = [os.path.realpath(f"/proc/self/fd/{{fd}}") for fd in range(100)]
        print("kvm" if any("kvm" in link for link in links) else "no kvm", flush=True)
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    print(child, os.getpid())
    assert os.path.exists("{tmp_path}/s")
    machine.console.send("abc")
    machine.console.expect("abc", timeout={DEADLINE})
    machine.console.send("q")
    print(machine.wait({DEADLINE}).reason.value)
""")
    *refusals, kvm, pids, reason = done.stdout.splitlines()
    parent = pids.split()[1]
    text = f"this machine belongs to process {parent}: a forked child has no part in it"
    assert (refusals, done.stderr) == ([text] * 4, "")
    assert (kvm, reason) == ("no kvm", "reset")


def test_a_machine_that_never_ran_has_nothing_to_close_in_a_child() -> None:
    with Machine(MachineConfig(kernel=bare("hello"))) as machine:
        child = os.fork()
        if child == 0:
            try:
                machine.close()
                machine.start()
            except VmmError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert machine.run().reason is ExitReason.RESET


def test_consoles_are_closed_when_the_event_loop_uses_them_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[set[str]] = []
    close = Console.close

    def watched(console: Console) -> None:
        threads.append({thread.name for thread in threading.enumerate()})
        close(console)

    monkeypatch.setattr(Console, "close", watched)
    with bare_machine("debugcon", debugcon="capture") as machine:
        machine.run()
        assert "vmm-events" in {thread.name for thread in threading.enumerate()}
    assert len(threads) == 2
    assert all("vmm-events" not in names for names in threads)


def test_at_the_end_every_machine_is_closed_whatever_one_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[str] = []

    class Unwilling:
        def close(self) -> None:
            closed.append("one")
            raise VmmError("it doesn't close")

    machines = [Unwilling(), Unwilling()]
    monkeypatch.setattr("vmm.machine.registry.open_machines", lambda: machines)
    with pytest.raises(VmmError):
        close_all()
    assert len(closed) == len(machines)
