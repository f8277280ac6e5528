"""Each way out of a guest, and none: both run loops, posted writes, doorbells."""

import threading
from collections.abc import Callable

import pytest
from support.counted import Counted
from support.guests import DEADLINE, bare_machine, wait_until

from vmm import ExitReason, MachineState
from vmm.devices.device_io import DeviceIo, DeviceIoMut, Locked
from vmm.devices.doorbell import Doorbell
from vmm.devices.fast_port import FastPort
from vmm.devices.resources import (
    MmioAddressConstraint,
    PioAddressConstraint,
    ResourceConstraint,
)

PORT = 0x500
RUNG_PORT = PORT + 8
MMIO_PAGE = 0xE800_0000
PATHS = [("python", "0"), ("python", "1"), ("compiled", "0"), ("compiled", "1")]


@pytest.fixture(params=PATHS, ids="-".join)
def path(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, str]:
    """The run loop, and whether KVM collects writes, for the test's machines."""
    loop, posts = request.param
    monkeypatch.setenv("VMM_RUN_LOOP", loop)
    monkeypatch.setenv("VMM_COALESCED_PIO", posts)
    return loop, posts


def test_polled_output_is_the_same_by_every_path(path: tuple[str, str]) -> None:
    with bare_machine("hello", timeout=DEADLINE) as machine:
        exits = machine.run().exits
        assert machine.console.read() == b"hello from the bare guest\n"
    fast, coalesced = exits["fast"] > 0, exits["coalesced"] > 0
    assert (fast, coalesced) == (path[0] == "compiled", path[1] == "1")


def test_interrupt_driven_echo_works_by_every_path(path: tuple[str, str]) -> None:
    with bare_machine("echo", timeout=DEADLINE) as machine:
        machine.start()
        machine.console.expect("echo: ready\n", timeout=DEADLINE)
        for word in ("one", "two", "three"):
            machine.console.send(word)
            machine.console.expect(word, timeout=DEADLINE)
        machine.console.send("q")
        assert machine.wait(DEADLINE).reason is ExitReason.RESET


def test_output_of_a_guest_that_never_looks_is_seen(path: tuple[str, str]) -> None:
    with bare_machine("blind", timeout=DEADLINE) as machine:
        machine.start()
        machine.console.expect("blind\n", timeout=DEADLINE)


def test_flood_stops_by_every_path(path: tuple[str, str]) -> None:
    with bare_machine("flood", serial_policy="drop", serial_buffer="4K") as machine:
        machine.start()
        machine.console.expect("flood\nflood\n", timeout=DEADLINE)
        machine.stop()
        assert machine.wait(DEADLINE).reason is ExitReason.STOPPED


def test_restarted_guest_finds_everything_again(path: tuple[str, str]) -> None:
    with bare_machine("hello", timeout=DEADLINE, on_reset="restart") as machine:
        machine.start()
        for _ in range(20):
            machine.console.expect("hello from the bare guest\n", timeout=DEADLINE)


def test_sink_without_room_loses_nothing_that_was_polled(
    path: tuple[str, str],
) -> None:
    config = {"serial_buffer": 3, "serial_rate": 400}
    with bare_machine("hello", timeout=DEADLINE, **config) as machine:
        assert machine.run().reason is ExitReason.RESET
        assert machine.console.read() == b"hello from the bare guest\n"


# A user's devices


class Answer(DeviceIo):
    """Answers poll.S by a fast port."""

    def __init__(self) -> None:
        self.port = FastPort()
        self.port.answer(ord("a"))
        self.calls = 0

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [PioAddressConstraint.at(PORT, 1)]

    def get_fast_ports(self) -> dict[int, FastPort]:
        return {PORT: self.port}

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        self.calls += 1
        data[0] = self.port.read() or 0


def test_answer_of_a_users_device_changes_under_the_guests_eyes() -> None:
    device = Answer()
    with bare_machine("poll", timeout=DEADLINE) as machine:
        machine.plug(device)
        machine.start()
        machine.console.expect("poll 61\n", timeout=DEADLINE)
        device.port.answer(ord("b"))
        machine.console.expect("poll 62\n", timeout=DEADLINE)
        machine.unplug(device)
        machine.console.expect("poll ff\n", timeout=DEADLINE)
        device.port.answer(ord("q"))
        machine.plug(device)
        result = machine.wait(DEADLINE)
    assert result.exits["fast"] > 0


class Bells(DeviceIoMut):
    """Two doorbells, and a port that tells how often they were rung."""

    def __init__(self) -> None:
        self.rings = 0
        self.writes: list[bytes] = []
        self.threads: set[str] = set()

    def get_resource_constraints(self) -> list[ResourceConstraint]:
        return [
            PioAddressConstraint.at(PORT, 2),
            PioAddressConstraint.at(RUNG_PORT, 1),
            MmioAddressConstraint.at(MMIO_PAGE, 0x1000),
        ]

    def get_doorbells(self) -> list[Doorbell]:
        return [
            Doorbell(base=PORT, size=2, value=7, is_pio=True, on_ring=self.ring),
            Doorbell(base=MMIO_PAGE, size=4, on_ring=self.ring),
        ]

    def ring(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.rings += 1

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[0] = self.rings & 0xFF

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self.writes.append(bytes(data))


def test_doorbells_ring_without_an_exit() -> None:
    device = Bells()
    with bare_machine("bell", timeout=DEADLINE) as machine:
        machine.plug(Locked(device))
        result = machine.run()
        assert machine.console.read() == b"bell done\n"
    assert device.rings == 20
    assert device.threads == {"vmm-events"}
    assert device.writes == [b"\x08\x00"]
    assert result.exits["mmio"] == 0


class OwnBells(Bells):
    """They ring on a thread of the device's own."""

    own_thread = True
    on_ring: Callable[[], None] = staticmethod(lambda: None)

    def ring(self) -> None:
        self.on_ring()
        super().ring()


def test_doorbells_ring_on_a_thread_of_the_devices_own() -> None:
    device = OwnBells()
    with bare_machine("bell", timeout=DEADLINE) as machine:
        machine.plug(Locked(device))
        result = machine.run()
        assert machine.console.read() == b"bell done\n"
    assert device.rings == 20
    assert device.threads == {"vmm-OwnBells"}
    assert result.exits["mmio"] == 0


def test_a_pause_waits_for_a_device_that_is_at_work_on_its_thread() -> None:
    device = OwnBells()
    is_inside, may_go_on = threading.Event(), threading.Event()

    def work() -> None:
        is_inside.set()
        assert may_go_on.wait(DEADLINE)

    device.on_ring = work
    with bare_machine("bell", timeout=DEADLINE) as machine:
        machine.plug(Locked(device))
        machine.start()
        assert is_inside.wait(DEADLINE)
        pausing = threading.Thread(target=machine.pause)
        pausing.start()
        pausing.join(0.1)
        assert pausing.is_alive()
        may_go_on.set()
        pausing.join(DEADLINE)
        assert device.rings >= 1
        assert machine.state is MachineState.PAUSED
        machine.resume()
        assert machine.wait(DEADLINE).reason is ExitReason.RESET
    assert device.rings == 20


class Threaded(DeviceIo):
    own_thread = True


def test_a_pause_waits_for_what_the_loop_has_handed_to_a_device_until_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a timer does that has it at its queue again."""
    device, is_paused, is_done = Threaded(), threading.Event(), threading.Event()

    def work() -> None:
        is_paused.wait(0.2)
        is_done.set()

    def hand_over() -> None:
        assert device.call_soon is not None
        device.call_soon(work)

    with bare_machine("count", timeout=DEADLINE) as machine:
        settle = machine._devices.settle

        def settled() -> None:
            settle()
            monkeypatch.undo()
            machine._loop.call_soon(hand_over)

        monkeypatch.setattr(machine._devices, "settle", settled)
        machine.plug(device)
        machine.plug(Counted())
        machine.start()
        machine.pause()
        assert is_done.is_set()
        is_paused.set()


def test_a_device_may_pause_the_machine_on_its_own_thread() -> None:
    device = OwnBells()
    with bare_machine("bell", timeout=DEADLINE) as machine:

        def once() -> None:
            device.on_ring = lambda: None
            machine.pause()

        device.on_ring = once
        machine.plug(Locked(device))
        machine.start()
        wait_until(lambda: machine.state is MachineState.PAUSED, "the pause")
        machine.resume()
        assert machine.wait(DEADLINE).reason is ExitReason.RESET


def test_a_device_that_raises_on_its_own_thread_ends_the_run_with_its_name() -> None:
    device = OwnBells()

    def fail() -> None:
        raise ZeroDivisionError("division by zero")

    device.on_ring = fail
    with bare_machine("bell", timeout=DEADLINE) as machine:
        machine.plug(Locked(device))
        result = machine.run()
        assert (result.reason, result.exit_code) == (ExitReason.ERROR, 1)
        assert result.detail == (
            "ZeroDivisionError: division by zero when a doorbell of device OwnBells "
            "rang"
        )
        assert isinstance(machine.error, ZeroDivisionError)
