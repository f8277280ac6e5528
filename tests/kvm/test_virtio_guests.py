"""Linux's own drivers at a virtio device of a user's, by every way to it."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.guests import DEADLINE, kernel, wait_until, with_script

from vmm import ExitReason, Machine, MachineConfig
from vmm.devices.state import State, Uint64
from vmm.devices.virtio.device import VirtioDevice
from vmm.devices.virtio.queue import Virtqueue
from vmm.errors import ConfigError, VmmError

pytestmark = pytest.mark.linux

WAYS: dict[str, dict[str, Any]] = {
    "pci": {"transport": "pci"},
    "pci by ports": {"transport": "pci", "acpi": False},
    "mmio by ACPI": {"transport": "mmio"},
    "mmio by command line": {"transport": "mmio", "acpi": False},
}
READ = "dd if=/dev/hwrng bs=64 count=4 2>/dev/null"


class LineState(State):
    number: Uint64


class Lines(VirtioDevice):
    """An entropy device with little of it: numbered lines of 16 bytes."""

    device_type = 4
    queue_sizes = (8,)
    number = 0
    resets = 0
    thread = ""

    def handle(self, queue: Virtqueue) -> None:
        self.thread = threading.current_thread().name
        for chain in queue:
            while chain.writable_size >= 16:
                chain.write(b"%15d\n" % self.number)
                self.number += 1
            queue.push(chain)

    def reset(self) -> None:
        self.resets += 1

    def state(self) -> LineState:
        return LineState(self.number)

    def restore(self, state: State | None) -> None:
        self.number = LineState.of(state).number


class LinesOfItsOwn(Lines):
    own_thread = True


class Broken(Lines):
    def handle(self, queue: Virtqueue) -> None:
        raise ZeroDivisionError("division by zero")


def config(**settings: Any) -> MachineConfig:  # noqa: ANN401
    return MachineConfig(
        kernel=kernel("full"), append="quiet", timeout=DEADLINE, **settings
    )


def numbers(output: bytes) -> list[int]:
    """Those of whole lines, each of them more than the one before."""
    found = [int(line) for line in output.split(b"\n")[:-1]]
    assert found
    assert found == sorted(set(found))
    return found


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return WAYS[request.param]


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def machine(way: dict[str, Any], lines: Lines) -> Iterator[Machine]:
    """One that runs, with an agent and `lines`."""
    with Machine(config(agent=True, **way)) as machine:
        machine.plug(lines)
        machine.start()
        yield machine


def read(machine: Machine) -> list[int]:
    done = machine.guest.run(READ, timeout=DEADLINE, check=True)
    assert isinstance(done.stdout, bytes)
    return numbers(done.stdout)


def test_linux_finds_it_once_and_uses_it(machine: Machine) -> None:
    assert len(read(machine)) >= 8
    found = machine.guest.run("ls /sys/bus/virtio/devices", text=True).stdout
    assert found.split() == ["virtio0"]
    log = machine.guest.run("dmesg | grep -i virtio", text=True).stdout
    assert "fail" not in log
    assert "error" not in log
    assert machine.warnings == []


def test_its_driver_leaves_and_comes_back(machine: Machine) -> None:
    """Of the device, then of its transport."""
    before = read(machine)[-1]
    for _ in range(3):
        machine.guest.run(
            "cd /sys/bus/virtio/drivers/virtio_rng && "
            "echo virtio0 > unbind && echo virtio0 > bind",
            check=True,
        )
        assert read(machine)[0] > before
    machine.guest.run(
        "at=$(readlink -f /sys/bus/virtio/devices/virtio0); at=${at%/virtio0}; "
        "name=${at##*/}; cd $(readlink -f $at/driver) && echo $name > unbind && "
        "! [ -e $at/virtio0 ] && echo $name > bind",
        check=True,
    )
    assert read(machine)[0] > before


def test_clones_and_resets_go_on_from_the_snapshot(machine: Machine) -> None:
    at = read(machine)[-1]
    with machine.snapshot() as snapshot, snapshot.clone() as clone:
        first = read(clone)
        assert first[0] > at
        read(clone)
        clone.reset()
        again = read(clone)
        assert again[0] <= first[-1]
        assert read(machine)[0] > at
        machine.reset()
        assert read(machine)[0] <= first[-1]


def test_a_clone_that_boots_again_finds_it(machine: Machine) -> None:
    """Its kernel is told of it as the machine's was."""
    read(machine)
    lines = Lines()

    def reads() -> bool:
        try:
            return len(read(clone)) >= 8
        except VmmError:  # it boots
            return False

    with (
        machine.snapshot() as snapshot,
        snapshot.clone(devices=[lines], on_reset="restart") as clone,
    ):
        read(clone)
        before = lines.resets
        clone.guest.popen("echo b > /proc/sysrq-trigger")
        wait_until(lambda: lines.resets > before, "it is reset")
        wait_until(reads, "it is found again")


def test_a_saved_snapshot_goes_on_with_the_device(
    machine: Machine, tmp_path: Path
) -> None:
    from vmm import Snapshot

    at = read(machine)[-1]
    with machine.snapshot() as snapshot:
        snapshot.save(tmp_path / "saved")
    with (
        Snapshot.load(tmp_path / "saved") as loaded,
        loaded.clone(devices=[Lines()]) as clone,
    ):
        assert read(clone)[0] > at


def test_it_is_there_after_each_reset(way: dict[str, Any], tmp_path: Path) -> None:
    initrd = with_script(tmp_path, f"{READ} | wc -c; echo through")
    lines = Lines()
    with Machine(config(initrd=initrd, on_reset="restart", **way)) as machine:
        machine.plug(lines)
        machine.start()
        for _ in range(3):
            machine.console.expect(re.compile(rb"256\r?\nthrough"), DEADLINE)
        machine.stop()
        result = machine.wait(DEADLINE)
    assert ("virtio_mmio.device=512@" in result.cmdline) is (
        way == WAYS["mmio by command line"]
    )
    assert lines.resets >= 3


@pytest.mark.parametrize("name", ["pci", "mmio by ACPI"])
def test_notifications_take_no_exits(name: str) -> None:
    """But for two of each interrupt by MMIO, whose driver asks what it was for."""
    with Machine(config(agent=True, **WAYS[name])) as machine:
        lines = Lines()
        machine.plug(lines)
        machine.start()
        read(machine)
        before, number = machine.exits["mmio"], lines.number
        for _ in range(10):
            read(machine)
        exits = machine.exits["mmio"] - before
        requests = (lines.number - number) // 4
    assert requests >= 30
    assert exits <= (0 if name == "pci" else 2 * requests + 2)


def test_a_device_may_have_a_thread_of_its_own(way: dict[str, Any]) -> None:
    with Machine(config(agent=True, **way)) as machine:
        lines = LinesOfItsOwn()
        machine.plug(lines)
        machine.start()
        at = read(machine)[-1]
        assert lines.thread == "vmm-LinesOfItsOwn"
        with machine.snapshot() as snapshot, snapshot.clone() as clone:
            assert read(clone)[0] > at


def test_a_device_that_raises_ends_the_run_with_its_name(way: dict[str, Any]) -> None:
    with Machine(config(**way)) as machine:
        machine.plug(Broken())
        result = machine.run()
    assert result.reason is ExitReason.ERROR
    assert result.exit_code == 1
    assert "Broken" in result.detail
    assert "division by zero" in result.detail


def test_hostile_root_gets_warnings_at_most(machine: Machine, lines: Lines) -> None:
    """It sets the registers up once more, by /dev/mem, under Linux's driver."""
    read(machine)
    resets = lines.resets
    base = 0xFC00_0000 if machine.config.transport == "mmio" else 0xE010_0000
    ports = "0x14 0x70 0x30 0x38 0x44 0x80 0xa0 0x50 0x64 0xc0 0x100 0x3000"
    machine.guest.run(
        f"for value in 0 1 15 255 65535 4294967295; do for at in {ports}; "
        f"do for width in 8 32; do devmem $(({base} + at)) $width $value; "
        f"devmem $(({base} + at)) $width; done; done; done",
        timeout=DEADLINE,
    )
    assert machine.guest.run("echo alive", text=True).stdout == "alive\n"
    assert lines.resets > resets
    assert len(machine.warnings) <= 8
    machine.stop()
    assert machine.wait(DEADLINE).reason is ExitReason.STOPPED


def test_there_is_no_hotplug(machine: Machine) -> None:
    with pytest.raises(ConfigError, match=r"Lines is a virtio device.*no hotplug"):
        machine.plug(Lines())
    wait_until(lambda: len(read(machine)) > 0, "the first one works")


@pytest.mark.parametrize("kind", [Lines, LinesOfItsOwn])
def test_snapshots_of_a_busy_device_lose_nothing(
    way: dict[str, Any], kind: type[Lines]
) -> None:
    """Neither a kick nor an interrupt: the reader in each clone comes to its end."""
    with Machine(config(agent=True, **way)) as machine:
        machine.plug(kind())
        machine.start()
        with machine.guest.popen("dd if=/dev/hwrng of=/dev/null bs=64 2>/dev/null"):
            for _ in range(5):
                with machine.snapshot() as snapshot, snapshot.clone() as clone:
                    for _ in range(2):
                        clone.guest.run("killall dd", timeout=DEADLINE)
                        assert len(read(clone)) >= 8
                        clone.reset()
        read(machine)
