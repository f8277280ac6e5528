"""Several CPUs: started by INIT and SIPI, at the serial port at once, stopped."""

import signal
import threading
from collections import Counter

import pytest
from support.guests import DEADLINE, bare_machine, process_status, thread_status

from vmm import ExitReason, RunResult
from vmm.kvm._libc import KICK_SIGNAL

BYTES = 4096  # that each CPU of smp-flood writes


def run(name: str, **settings: object) -> tuple[RunResult, str]:
    """Run a bare guest to its end; its result and all that it printed."""
    with bare_machine(name, timeout=DEADLINE, **settings) as machine:
        machine.start()
        result = machine.wait()
        return result, machine.console.read().decode()


@pytest.mark.parametrize("cpus", [1, 2, 3, 32])
def test_every_cpu_starts_and_knows_its_apic_id(cpus: int) -> None:
    result, output = run("smp", cpus=cpus)
    assert result.reason is ExitReason.RESET
    others = [f"cpu {n:02x} leaf1 {n:02x} leafb {n:08x}" for n in range(1, cpus)]
    assert output.splitlines() == [*others, f"smp {cpus:02x}"]


@pytest.mark.parametrize("loop", ["python", "compiled"])
def test_no_byte_is_lost_or_doubled_when_all_cpus_write_at_once(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMM_RUN_LOOP", loop)
    result, output = run("smp-flood", cpus=3)
    assert result.reason is ExitReason.RESET
    assert Counter(output) == {"A": BYTES, "B": BYTES, "C": BYTES}
    assert result.exits["coalesced"] == 0  # its ring has one reader


def test_every_cpu_starts_after_each_of_20_resets() -> None:
    before = process_status("Threads")
    with bare_machine("smp", cpus=3, on_reset="restart", timeout=DEADLINE) as machine:
        machine.start()
        for _ in range(21):
            machine.console.expect("smp 03\n", timeout=DEADLINE)
        threads = process_status("Threads")
        machine.stop()
        result = machine.wait(DEADLINE)
    assert result.resets >= 20
    # The loop, vCPUs, one of KVM's own, some that are about to go: not one a reset.
    assert threads - before < 20


def test_all_cpus_stand_still_while_paused_and_go_on_after() -> None:
    with bare_machine("smp-pause", cpus=3, on_panic="pause") as machine:
        machine.start()
        assert machine.wait(DEADLINE).reason is ExitReason.PANIC
        paused = machine.paused
        assert paused is not None
        before = [paused.registers(cpu) for cpu in range(3)]
        counts = paused.read_physical(0x10_0000, 0x2000)
        assert before == [paused.registers(cpu) for cpu in range(3)]
        assert counts == paused.read_physical(0x10_0000, 0x2000)
        assert paused.report().count("vCPU ") == 3
        machine.resume()
        machine.console.send("x")
        machine.console.expect("all count\n", timeout=DEADLINE)


def test_a_stop_reaches_cpus_that_run_and_those_that_wait_for_init() -> None:
    with bare_machine("smp-pause", cpus=3) as machine:
        machine.start()
        machine.console.expect("Kernel panic", timeout=DEADLINE)
        machine.stop("enough")
        assert machine.wait(DEADLINE).reason is ExitReason.STOPPED
    with bare_machine("spin", cpus=32) as machine:
        machine.start()
        machine.console.expect("spin", timeout=DEADLINE)
        machine.stop("enough")
        assert machine.wait(DEADLINE).reason is ExitReason.STOPPED


def test_no_thread_of_ours_takes_a_signal_that_is_sent_to_the_process() -> None:
    """Or Ctrl-C might not wake the thread that Python's handlers run on."""
    with bare_machine("smp-pause", cpus=3) as machine:
        machine.start()
        machine.console.expect("Kernel panic", timeout=DEADLINE)
        threads = [t for t in threading.enumerate() if t.name.startswith("vmm-")]
        blocked = {
            t.name: int(thread_status(t.native_id, "SigBlk"), 16) for t in threads
        }
    assert set(blocked) == {"vmm-events", "vmm-vcpu0", "vmm-vcpu1", "vmm-vcpu2"}
    for mask in blocked.values():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            assert mask >> number - 1 & 1
        assert not mask >> KICK_SIGNAL - 1 & 1


def test_a_crash_of_one_cpu_ends_the_run_and_shows_all() -> None:
    result, output = run("smp-crash", cpus=3)
    assert output == "cpu 02 crashes\n"
    assert (result.reason, result.exit_code) == (ExitReason.CRASH, 33)
    assert "vCPU 2" in result.detail
    assert [f"vCPU {cpu}:" in result.report for cpu in range(3)] == [True] * 3


def test_a_vcpu_that_gets_no_thread_ends_the_run_with_that_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "vmm-vcpu2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    before = threading.active_count()
    result, _ = run("smp", cpus=3)
    assert (result.reason, result.exit_code) == (ExitReason.ERROR, 1)
    assert result.detail == "RuntimeError: can't start new thread"
    assert threading.active_count() == before
