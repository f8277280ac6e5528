"""A guest that goes on from a snapshot, again and again, as if nothing had been."""

import gc
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from support.counted import PORT, Counted, goes_on
from support.guests import (
    DEADLINE,
    Shell,
    bare_machine,
    built,
    follow,
    kernel,
    process_status,
    wait_until,
)
from support.lengths import EMULATED, LONG
from support.open_fds import open_fds

from vmm import ConfigError, ExitReason, Machine, MachineConfig, MachineState, VmmError
from vmm.boot.layout import VM_GENERATION_ID
from vmm.devices import (
    DeviceIo,
    LegacyIrqConstraint,
    PioAddressConstraint,
    ResourceConstraint,
    State,
)
from vmm.devices.pc.vm_generation_id import GENERATION_ID_SIZE
from vmm.machine.snapshot import Snapshot

CUTS = 40 if LONG else 3 if EMULATED else 10  # the host's side has the ten


@pytest.mark.both
@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("loop", ["python", "compiled"])
def test_nothing_is_lost_between_a_machine_and_its_clones(
    cpus: int, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VMM_RUN_LOOP", loop)
    device, delays = Counted(cpus), random.Random(cpus)
    with bare_machine("count", cpus=cpus) as machine:
        machine.plug(device)
        machine.start()
        wait_until(lambda: min(device.stores) > 0, "all CPUs count")
        for _ in range(CUTS):
            time.sleep(delays.random() * 0.003)
            copies = Counted(cpus), Counted(cpus)
            with machine.snapshot() as snapshot:
                clones = [snapshot.clone(devices=[copy]) for copy in copies]
            for clone, copy in zip(clones, copies, strict=True):
                with clone:
                    goes_on(copy)
                assert copy.wrong == []
        goes_on(device)
    assert device.wrong == []


@pytest.mark.both
@pytest.mark.parametrize("cpus", [1, 2])
def test_a_machine_that_is_put_back_goes_on_from_there(cpus: int) -> None:
    device, delays = Counted(cpus), random.Random(cpus)
    with bare_machine("count", cpus=cpus) as machine:
        machine.plug(device)
        machine.start()
        goes_on(device)
        with machine.snapshot():
            for _ in range(CUTS):
                time.sleep(delays.random() * 0.003)
                machine.reset()
                goes_on(device)
                assert device.wrong == []


@pytest.mark.both
def test_each_life_has_a_generation_id_of_its_own() -> None:
    def generation(machine: Machine) -> bytes:
        return machine.memory.read(VM_GENERATION_ID, GENERATION_ID_SIZE)

    with bare_machine("ticks", serial="capture") as machine:
        machine.start()
        machine.console.expect("ticks\n", DEADLINE)
        first = generation(machine)
        with machine.snapshot() as snapshot:
            assert generation(machine) == first  # it goes on as it was
            with snapshot.clone() as one, snapshot.clone() as other:
                ids = [first, generation(one), generation(other)]
                one.reset()
                ids.append(generation(one))
                with one.snapshot() as later, later.clone() as grandchild:
                    ids.append(generation(grandchild))
        assert generation(machine) == first
        machine.reset()
        ids.append(generation(machine))
    assert len(set(ids)) == len(ids)
    assert bytes(GENERATION_ID_SIZE) not in ids


@pytest.mark.both
def test_the_i8254_ticks_on_in_a_clone() -> None:
    with bare_machine("ticks", serial="capture") as machine:
        machine.start()
        machine.console.expect("ticks\n", DEADLINE)
        for _ in range(3):
            with machine.snapshot() as snapshot, snapshot.clone() as clone:
                end = ticks(clone) + 10
                wait_until(lambda: ticks(clone) > end, "it ticks")  # noqa: B023


def ticks(machine: Machine) -> int:
    machine.pause()
    assert machine.paused is not None
    count = machine.paused.registers()["rbx"]
    machine.resume()
    return count


@pytest.mark.both
@pytest.mark.parametrize("name", ["rtc", "chipset", "traps", "string-io", "mmio"])
def test_cut_at_any_moment_a_guest_comes_to_the_same_end(name: str) -> None:
    cuts: list[tuple[int, Snapshot]] = []
    while not cuts:  # some are at their end before we look
        whole = cut_up(name, cuts)
    for printed, snapshot in cuts[: 40 if LONG else 3]:
        with snapshot, snapshot.clone() as clone:
            clone.wait(DEADLINE)
            assert clone.console.transcript == whole[printed:]


def cut_up(name: str, cuts: list[tuple[int, Snapshot]]) -> bytes:
    """All that a guest prints, and snapshots of it, with how much was printed then."""
    with bare_machine(name, serial="capture") as machine:
        machine.start()
        while machine.result is None:
            with suppress(VmmError):  # it has ended
                machine.pause()
                cuts.append((machine.console.printed, machine.snapshot()))
                machine.resume()
            time.sleep(0.002 * len(cuts))
        return machine.console.transcript


def test_ram_above_the_hole_is_in_it() -> None:
    with bare_machine("spin", memory="4G", serial="null") as machine:
        machine.start()
        low, high = 0xE000_0000 - 4096, 0x1_2000_0000 - 4096  # the last page of each
        machine.memory.write(high, b"high")
        machine.memory.write(low, b"low")
        with machine.snapshot() as snapshot, snapshot.clone() as clone:
            machine.memory.write(high, b"more")
            assert clone.memory.read(high, 4) == b"high"
            assert clone.memory.read(low, 3) == b"low"


class HolderState(State):
    holds: bool


class Holder(DeviceIo):
    """Holds IRQ 5 as guest/bare/level.S says, and has the machine pause then."""

    def __init__(self, port: int, machine: Machine | None = None) -> None:
        self.port = port
        self.machine = machine
        self.holds = False

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [
            PioAddressConstraint.at(self.port, 1),
            LegacyIrqConstraint(irq=5, shared=True, level=True),
        ]

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self.restore(HolderState(bool(data[0])))
        if self.machine is not None:
            self.machine.pause()

    def state(self) -> HolderState:
        return HolderState(self.holds)

    def restore(self, state: State | None) -> None:
        self.holds = HolderState.of(state).holds
        self.interrupts[0].set_level(self.holds)


@pytest.mark.both
def test_a_level_that_is_held_is_held_in_a_clone() -> None:
    cuts = []
    with bare_machine("level", serial="capture") as machine:
        machine.plug(Holder(PORT, machine))
        machine.plug(Holder(PORT + 1, machine))
        machine.start()
        while machine.result is None:
            if machine.state is MachineState.PAUSED:
                cuts.append((machine.console.printed, machine.snapshot()))
                machine.resume()
            time.sleep(0.001)
        whole = machine.console.transcript
    assert whole == b"irq 1\nirq 2\nirq 3\nquiet\nirq 4\nquiet\n"
    assert len(cuts) > 5
    for printed, snapshot in cuts:
        devices = [Holder(PORT), Holder(PORT + 1)]
        with snapshot, snapshot.clone(devices=devices) as clone:
            assert clone.wait(DEADLINE).reason is ExitReason.RESET
            assert clone.console.transcript == whole[printed:]


@pytest.mark.both
def test_all_cpus_go_on_in_a_clone() -> None:
    with bare_machine("smp-pause", cpus=2, serial="capture", on_panic="pause") as one:
        one.start()
        one.wait(DEADLINE)
        with one.snapshot() as snapshot, snapshot.clone() as clone:
            clone.console.send("?")
            clone.console.expect("all count\n", DEADLINE)


# Linux


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    config = MachineConfig(
        kernel=kernel("tiny"),
        initrd=built("initramfs-busybox.cpio"),
        append="quiet guest.shell",
        serial="capture",
    )
    with Machine(config) as machine:
        machine.start()
        yield Shell(machine)


@pytest.fixture
def snapshot(shell: Shell) -> Iterator[Snapshot]:
    shell.ask("nonce=" + "".join(random.choices("abcdef", k=20)))
    with shell.machine.snapshot() as snapshot:
        yield snapshot


pytestmark = pytest.mark.linux


@pytest.mark.both
def test_clones_have_what_only_ram_had_and_nothing_of_each_other(
    shell: Shell, snapshot: Snapshot
) -> None:
    nonce = shell.ask("echo $nonce").strip()
    shells = [follow(snapshot.clone()) for _ in range(4)]
    for number, each in enumerate(shells):
        assert each.ask("echo $nonce").strip() == nonce
        each.ask(f"nonce=own{number}; echo {number} > /tmp/own{number}")
    shell.ask("nonce=parent")
    for number, each in enumerate(shells):
        assert each.ask("echo $nonce").strip() == f"own{number}"
        assert each.ask("ls /tmp").split() == [f"own{number}"]
        each.machine.close()
    with snapshot.clone() as clone:
        assert follow(clone).ask("echo $nonce").strip() == nonce
    assert shell.ask("echo $nonce; ls /tmp").split() == ["parent"]


def test_a_clone_is_put_back_again_and_again(snapshot: Snapshot) -> None:
    with snapshot.clone() as clone:
        shell = follow(clone)
        nonce = shell.ask("echo $nonce")
        for number in range(20):
            assert shell.ask("nonce=$nonce-; ls /tmp") == ""
            shell.ask(
                f"dd if=/dev/zero of=/tmp/own{number} bs=64k count=16 2>/dev/null"
            )
            clone.console.send("never to be seen")
            clone.reset()
            assert shell.ask("echo $nonce") == nonce


def test_a_snapshot_of_a_clone_has_what_both_have_written(snapshot: Snapshot) -> None:
    with snapshot.clone() as clone:
        first = follow(clone)
        nonce = first.ask("echo $nonce").strip()
        first.ask("own=1")
        with clone.snapshot() as again, again.clone() as second:
            first.ask("own=2")
            answer = follow(second).ask("echo $nonce $own").split()
            assert answer == [nonce, "1"]
            clone.reset()
            assert first.ask("echo $nonce $own").split() == [nonce, "1"]


def test_a_paused_machine_stays_paused(shell: Shell) -> None:
    shell.machine.pause()
    with shell.machine.snapshot() as snapshot:
        assert shell.machine.state is MachineState.PAUSED
        shell.machine.resume()
        with snapshot.clone() as clone:
            assert follow(clone).ask("echo yes").split() == ["yes"]


@pytest.mark.both
def test_time_stands_still_between_a_snapshot_and_a_clone(shell: Shell) -> None:
    machine = shell.machine
    machine.console.sendline("sleep 1; echo slept; cat /proc/uptime; dmesg | tail -2")
    time.sleep(0.3)
    with machine.snapshot() as snapshot:
        first = machine.console.expect(Shell.PROMPT, DEADLINE).before.decode().split()
        time.sleep(2)
        with snapshot.clone() as clone:
            found = clone.console.expect(Shell.PROMPT, DEADLINE).before.decode().split()
    assert found[0] == first[0] == "slept"
    # As late as the machine, not by the age of the snapshot.
    assert abs(float(found[1]) - float(first[1])) < 1.5
    assert "unstable" not in " ".join(found)


def test_an_uart_in_mid_transmission_goes_on(shell: Shell) -> None:
    machine, delays = shell.machine, random.Random(0)
    machine.console.sendline("cat /dev/zero | tr '\\0' x")
    machine.console.expect("xxxx", DEADLINE)
    snapshots = []
    for _ in range(10):
        time.sleep(delays.random() * 0.01)
        snapshots.append(machine.snapshot())
    machine.console.send("\x03")
    machine.console.expect(Shell.PROMPT, DEADLINE)
    for snapshot in snapshots:
        with snapshot, snapshot.clone() as clone:
            clone.console.expect("xxxx", DEADLINE)
            clone.console.send("\x03")
            clone.console.expect(Shell.PROMPT, DEADLINE)
            assert follow(clone).ask("echo yes").split() == ["yes"]


LINES = 60 if EMULATED else 600
COUNT = f"i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done"


@pytest.mark.both
def test_cut_at_any_moment_the_output_is_whole(shell: Shell) -> None:
    machine, cuts = shell.machine, random.Random(0)
    start = len(machine.console.transcript)
    machine.console.sendline(COUNT)
    taken = []
    for _ in range(3 if EMULATED else 8):
        time.sleep(cuts.random() * 0.02)
        machine.pause()
        taken.append((machine.console.printed, machine.snapshot()))
        machine.resume()
    machine.console.expect(Shell.PROMPT, DEADLINE)
    whole = machine.console.transcript
    lines = "".join(f"line {number}\r\n" for number in range(LINES))
    assert whole[start:].decode() == lines + Shell.PROMPT
    for printed, snapshot in taken:
        with snapshot, snapshot.clone() as clone:
            if printed < len(whole):
                clone.console.expect(Shell.PROMPT, DEADLINE)
            assert clone.console.transcript == whole[printed:]


def test_a_command_that_only_echoes_its_reboot_boots_again(snapshot: Snapshot) -> None:
    with snapshot.clone(on_reset="restart") as clone:
        clone.console.sendline("exit")
        clone.console.expect("reset through the i8042", DEADLINE)
        clone.console.expect("guest: userspace", DEADLINE)
        clone.console.expect("# ", DEADLINE)
        assert follow(clone).machine.state is MachineState.RUNNING


def test_a_clone_ends_as_its_machine_would(snapshot: Snapshot) -> None:
    with snapshot.clone() as clone:
        clone.console.sendline("exit")
        result = clone.wait(DEADLINE)
        assert (result.reason, result.resets) == (ExitReason.RESET, 1)
        with pytest.raises(VmmError, match="the run has ended"):
            clone.snapshot()
        with pytest.raises(VmmError, match="the run has ended"):
            clone.reset()


# With an agent


@pytest.fixture(scope="module")
def agent_snapshot() -> Iterator[Snapshot]:
    config = MachineConfig(kernel=kernel("tiny"), agent=True, append="quiet")
    with Machine(config) as machine:
        machine.start()
        machine.guest.wait_ready(DEADLINE)
        yield machine.snapshot()


@pytest.mark.both
def test_a_clones_real_time_is_its_snapshots_or_ours(agent_snapshot: Snapshot) -> None:
    def ahead(set_clock: bool) -> tuple[float, float]:
        """Of its real time before ours; and its monotonic time."""
        with agent_snapshot.clone(set_clock=set_clock) as clone:
            told = clone.guest.run(["date", "+%s"], text=True).stdout
            up = clone.guest.read_text("/proc/uptime").split()[0]
            return float(told) - time.time(), float(up)

    time.sleep(2.5)
    (frozen, before), (right, now) = ahead(False), ahead(True)
    assert frozen < -1.5
    assert abs(right) < 1.5
    assert abs(now - before) < 1


def test_clones_have_random_numbers_of_their_own(agent_snapshot: Snapshot) -> None:
    clones = [agent_snapshot.clone() for _ in range(3)]
    command = ["head", "-c16", "/dev/urandom"]
    drawn = {clone.guest.run(command, check=True).stdout for clone in clones}
    assert len(drawn) == 3
    assert {len(each) for each in drawn} == {16}
    for clone in clones:
        clone.close()


def test_a_clock_is_set_by_an_agent_alone(snapshot: Snapshot) -> None:
    with pytest.raises(ConfigError, match="set_clock: it takes agent=True"):
        snapshot.clone(set_clock=True)


# What can't be


def test_no_snapshot_of_what_does_not_run(shell: Shell) -> None:
    with Machine(shell.machine.config) as machine:
        with pytest.raises(VmmError, match="never started"):
            machine.snapshot()
        with pytest.raises(VmmError, match="has no snapshot"):
            machine.reset()
    with pytest.raises(VmmError, match="never started"):
        machine.snapshot()


def test_no_snapshot_of_what_has_been_reset() -> None:
    with bare_machine("reset", on_reset="pause", serial="null") as machine:
        machine.start()
        machine.wait(DEADLINE)
        with pytest.raises(VmmError, match="has been reset"):
            machine.snapshot()


def test_no_clone_of_what_is_closed(snapshot: Snapshot) -> None:
    clone = snapshot.clone()
    snapshot.close()
    snapshot.close()
    with pytest.raises(VmmError, match="snapshot is closed"):
        snapshot.clone()
    with clone:  # needs it no more
        assert follow(clone).ask("echo yes").split() == ["yes"]


@pytest.mark.parametrize("name", ["memory", "cpus", "kernel", "acpi", "command"])
def test_what_a_clone_has_from_its_snapshot_can_not_be_chosen(
    name: str, snapshot: Snapshot
) -> None:
    with pytest.raises(ConfigError, match=f"{name}: a clone has what the snapshot has"):
        snapshot.clone(**{name: None})  # type: ignore[arg-type]


def test_a_device_that_needs_arguments_is_asked_for() -> None:
    class Needy(Counted):
        def __init__(self, cpus: int, name: str) -> None:
            super().__init__(cpus)
            self.name = name

    with bare_machine("count") as machine:
        machine.plug(Needy(1, "one"))
        machine.start()
        with machine.snapshot() as snapshot:
            with pytest.raises(
                VmmError, match=r"Needy.*pass the clone's own in devices="
            ):
                snapshot.clone()
            with pytest.raises(
                VmmError, match=r"has .*Needy where the clone has .*Counted"
            ):
                snapshot.clone(devices=[Counted()])
            with pytest.raises(VmmError, match=r"lacks the snapshot's .*Needy"):
                snapshot.clone(devices=[])
            with pytest.raises(VmmError, match=r"has no .*Silent"):
                snapshot.clone(devices=[Needy(1, "two"), Silent()])
            with snapshot.clone(devices=[Needy(1, "two")]):
                pass


class Silent(DeviceIo):
    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [PioAddressConstraint.at(0x700, 1)]


def test_a_device_can_not_take_a_snapshot_of_itself() -> None:
    told: list[VmmError] = []

    class Curious(Counted):
        def read(self, base: int, offset: int, data: memoryview) -> None:
            super().read(base, offset, data)
            if not told:
                with pytest.raises(VmmError, match="is to stand still, too") as error:
                    machine.snapshot()
                told.append(error.value)

    with bare_machine("count") as machine:
        machine.plug(Curious())
        machine.start()
        wait_until(lambda: bool(told), "it has tried")


# Limits


def test_many_clones_leave_nothing_behind(snapshot: Snapshot) -> None:
    for _ in range(5):
        snapshot.clone().close()
    gc.collect()
    threads, descriptors = threading.active_count(), open_fds()
    size = process_status("VmRSS")
    for _ in range(1000 if LONG else 50):
        snapshot.clone().close()
    assert threading.active_count() == threads
    assert open_fds() == descriptors
    assert process_status("VmRSS") < size + (20 << 10)


def test_many_clones_at_once(snapshot: Snapshot) -> None:
    clones = [snapshot.clone() for _ in range(30)]
    for clone in clones:
        clone.console.sendline("echo $nonce")
    answers = {clone.console.expect(Shell.PROMPT, DEADLINE).before for clone in clones}
    for clone in clones:
        clone.close()
    assert len(answers) == 1


def test_whoever_stops_it_meanwhile_stops_it(shell: Shell, snapshot: Snapshot) -> None:
    for _ in range(20):
        with snapshot.clone() as clone:
            stopper = threading.Thread(target=clone.stop)
            stopper.start()
            with suppress(VmmError):
                clone.snapshot().close()
            stopper.join()
            assert clone.wait(DEADLINE).reason is ExitReason.STOPPED
