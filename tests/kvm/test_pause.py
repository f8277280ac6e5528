"""A guest that is paused, at any moment, and goes on as if nothing had been."""

import random
import threading
import time

import pytest
from support.counted import Counted
from support.guests import (
    DEADLINE,
    Shell,
    bare_machine,
    built,
    kernel,
    wait_until,
)

from vmm import ExitReason, Machine, MachineConfig, MachineState, VmmError

PAUSES = 100
PAUSE_S = 2


def check(device: Counted, machine: Machine) -> list[dict[str, int]]:
    """What holds when all CPUs stand at a boundary; returns their registers."""
    assert device.wrong == []
    assert device.low == [None] * len(device.low)  # no store is half done
    assert machine.paused is not None
    cpus = [machine.paused.registers(cpu) for cpu in range(len(device.low))]
    for registers, written, loads in zip(
        cpus, device.written, device.loads, strict=True
    ):
        # What was done is seen in the registers, too.
        assert (registers["rcx"] + written) % 256 == 0
        assert registers["rax"] == loads
    return cpus


def counts(device: Counted) -> list[list[int]]:
    return [list(each) for each in (device.written, device.loads, device.stores)]


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("loop", ["python", "compiled"])
def test_a_guest_is_paused_at_a_boundary_and_loses_nothing(
    cpus: int, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMM_RUN_LOOP", loop)
    device, delays = Counted(cpus), random.Random(cpus)
    with bare_machine("count", cpus=cpus, timeout=DEADLINE) as machine:
        machine.plug(device)
        machine.start()
        wait_until(lambda: min(device.stores) > 0, "all CPUs count")
        for _ in range(PAUSES):
            time.sleep(delays.random() * 0.003)
            machine.pause()
            assert machine.state is MachineState.PAUSED
            before, registers = counts(device), check(device, machine)
            time.sleep(0.001)
            assert before == counts(device)
            assert registers == check(device, machine)
            machine.resume()
        stores = list(device.stores)
        wait_until(
            lambda: all(
                now > then for now, then in zip(device.stores, stores, strict=True)
            ),
            "all CPUs go on",
        )
        machine.stop()
        assert machine.wait(DEADLINE).reason is ExitReason.STOPPED
    assert device.wrong == []


class Pausing(Counted):
    """Pauses the machine in the middle of an access, of the kind that it is told."""

    machine: Machine
    kind = ""

    def _pause(self, kind: str) -> None:
        if kind == self.kind:
            self.kind = ""
            self.machine.pause()

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        super().pio_write(base, offset, data)
        if self.written[0] % 256 == 100:
            self._pause("rep outs")

    def read(self, base: int, offset: int, data: memoryview) -> None:
        super().read(base, offset, data)
        self._pause("load")

    def write(self, base: int, offset: int, data: memoryview) -> None:
        super().write(base, offset, data)
        self._pause("low half of a store" if self.low[0] else "high half of a store")


@pytest.mark.parametrize("loop", ["python", "compiled"])
def test_a_device_pauses_its_machine_which_completes_the_access(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMM_RUN_LOOP", loop)
    device = Pausing(1)
    with bare_machine("count", timeout=DEADLINE) as machine:
        device.machine = machine
        machine.plug(device)
        machine.start()
        wait_until(lambda: device.stores[0] > 0, "it counts")
        halves = ["low half of a store", "high half of a store"]
        for kind in ["rep outs", "load", *halves] * 5:
            device.kind = kind
            wait_until(lambda: machine.state is MachineState.PAUSED, "a pause")
            assert device.kind == ""
            check(device, machine)
            machine.resume()


def test_a_stop_ends_pauses_that_come_one_after_another() -> None:
    told: list[Exception] = []

    def pause_and_resume() -> None:
        try:
            while True:
                machine.pause()
                machine.resume()
        except VmmError as error:
            told.append(error)

    with bare_machine("spin") as machine:
        machine.start()
        thread = threading.Thread(target=pause_and_resume)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive()
        machine.stop()
        thread.join(DEADLINE)
        assert machine.wait(DEADLINE).reason is ExitReason.STOPPED
    assert len(told) == 1


def test_input_of_a_paused_guest_comes_when_it_goes_on() -> None:
    with bare_machine("echo", timeout=DEADLINE) as machine:
        machine.start()
        machine.console.expect("echo: ready", DEADLINE)
        machine.console.read()
        machine.pause()
        machine.console.send("typed meanwhile")
        assert machine.console.read_until_idle(0.2, DEADLINE) == b""
        machine.resume()
        machine.console.expect("typed meanwhile", DEADLINE)


def test_what_was_printed_comes_out_of_a_paused_guest() -> None:
    with bare_machine("echo", timeout=DEADLINE) as machine:
        machine.start()
        machine.console.expect("echo: ready", DEADLINE)
        for number in range(30):
            text = f"text {number} of some length;"
            machine.console.send(text)
            machine.console.expect(text[:4], DEADLINE)
            machine.pause()
            printed = machine.console.read_until_idle(0.05, DEADLINE)
            machine.resume()
            if b";" not in printed:
                machine.console.expect(";", DEADLINE)


def test_a_pause_is_no_hang() -> None:
    with bare_machine("halt", hang_s=1, timeout=DEADLINE) as machine:
        machine.start()
        time.sleep(0.2)
        machine.pause()
        time.sleep(1.5)
        began = time.monotonic()
        machine.resume()
        assert machine.wait(DEADLINE).reason is ExitReason.HANG
    assert time.monotonic() - began > 0.3


def test_the_timeout_ends_a_pause() -> None:
    with bare_machine("spin", timeout=1) as machine:
        machine.start()
        machine.pause()
        assert machine.wait(DEADLINE).reason is ExitReason.TIMEOUT
        assert machine.paused is None


def ticks(machine: Machine) -> int:
    """How many the paused guest has counted."""
    assert machine.paused is not None
    return machine.paused.registers()["rbx"]


def test_ticks_do_not_pile_up_in_a_pause() -> None:
    with bare_machine("ticks", timeout=DEADLINE) as machine:
        machine.start()
        machine.console.expect("ticks", DEADLINE)
        time.sleep(0.2)
        machine.pause()
        before = ticks(machine)
        time.sleep(PAUSE_S)
        assert ticks(machine) == before
        began = time.monotonic()
        machine.resume()
        time.sleep(0.3)
        machine.pause()
        ran_s = time.monotonic() - began
        assert 0 < ticks(machine) - before <= 1000 * ran_s + 10


# Linux


def numbers(shell: Shell) -> tuple[float, int]:
    """Its uptime and its date, in seconds."""
    uptime, date = shell.ask("cat /proc/uptime; date +%s").splitlines()
    return float(uptime.split()[0]), int(date)


# As it comes: kvm-clock on PVM, where a guest's TSC is the host's, and goes on.
CLOCKS = [
    "",
    pytest.param("clocksource=kvm-clock", marks=pytest.mark.hardware),
    pytest.param("clocksource=tsc", marks=pytest.mark.hardware),
]


@pytest.mark.linux
@pytest.mark.parametrize("clock", CLOCKS)
def test_no_time_passes_for_a_linux_that_is_paused(clock: str) -> None:
    config = MachineConfig(
        kernel=kernel("tiny"),
        initrd=built("initramfs-busybox.cpio"),
        append=f"quiet guest.shell {clock}",
        timeout=DEADLINE,
    )
    with Machine(config) as machine:
        machine.start()
        shell = Shell(machine)
        began = time.monotonic()
        before = numbers(shell)
        machine.pause()
        time.sleep(PAUSE_S)
        machine.resume()
        after = numbers(shell)
        ran_s = time.monotonic() - began - PAUSE_S
        passed = [now - then for now, then in zip(after, before, strict=True)]
        assert passed[0] <= ran_s + 0.1
        assert passed[1] <= ran_s + 1

        machine.console.sendline("sleep 1; echo slept")
        time.sleep(0.2)
        machine.pause()
        began = time.monotonic()
        machine.console.sendline("echo typed")
        time.sleep(PAUSE_S)
        assert b"slept" not in machine.console.read()
        machine.resume()
        machine.console.expect("slept", DEADLINE)
        assert time.monotonic() - began > PAUSE_S + 0.5
        machine.console.expect("typed", DEADLINE)
        machine.console.expect(Shell.PROMPT, DEADLINE)

        before = numbers(shell)
        began = time.monotonic()
        for _ in range(50):
            machine.pause()
            machine.resume()
        after = numbers(shell)
        assert after[0] >= before[0]
        assert after[0] - before[0] <= time.monotonic() - began + 0.1
        assert shell.ask("dmesg | grep -E 'lockup|stall'") == ""
