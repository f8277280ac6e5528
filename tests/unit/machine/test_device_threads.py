"""A device with a thread of its own: where it is called, and when nobody is."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from support.device_rig import PORT, Device, Rig
from support.open_fds import open_fds

from vmm.devices.device_io import DeviceIoMut, Locked
from vmm.devices.doorbell import Doorbell
from vmm.devices.resources import DeviceResources, PioAddressConstraint
from vmm.event_loop import EventLoop
from vmm.result import ExitReason
from vmm.vcpu.control import failure

DEADLINE = 10.0  # seconds; for what takes a millisecond when all is well


class Busy(Device):
    """Does `work` when its doorbell rings."""

    own_thread = True

    def __init__(self, port: int = PORT) -> None:
        super().__init__([PioAddressConstraint.at(port, 2)])
        self.port = port
        self.threads: list[str] = []
        self.rung = threading.Event()
        self.work: Callable[[], None] = lambda: None

    def get_doorbells(self) -> Sequence[Doorbell]:
        return [Doorbell(base=self.port, size=2, is_pio=True, on_ring=self.ring)]

    def ring(self) -> None:
        self.threads.append(threading.current_thread().name)
        self.work()
        self.rung.set()


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
def rig(errors: list[Exception]) -> Iterator[Rig]:
    loop = EventLoop(errors.append)
    rig = Rig(loop)
    yield rig
    rig.manager.close()
    loop.close()


@pytest.fixture
def device(rig: Rig) -> Busy:
    device = Busy()
    rig.manager.add(device)
    return device


def start(rig: Rig) -> None:
    rig.power_on()
    rig.loop.start()
    rig.manager.start_threads()


def ring(rig: Rig) -> None:
    (fd,) = rig.vm.ioeventfds
    os.eventfd_write(fd, 1)


def names() -> list[str]:
    return sorted(
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("vmm-")
    )


def test_it_is_rung_on_a_thread_that_has_its_name(rig: Rig, device: Busy) -> None:
    assert names() == []
    start(rig)
    assert names() == ["vmm-Busy", "vmm-events"]
    ring(rig)
    assert device.rung.wait(DEADLINE)
    assert device.threads == ["vmm-Busy"]
    rig.manager.stop_threads()
    assert names() == ["vmm-events"]


def test_one_that_works_long_leaves_the_others_alone(rig: Rig, device: Busy) -> None:
    may_go_on, other = threading.Event(), Busy(PORT + 2)
    device.work = lambda: assert_(may_go_on.wait(DEADLINE))
    start(rig)
    ring(rig)
    rig.manager.add(other)  # while it runs: its thread starts at once
    fds = [fd for fd, bell in rig.vm.ioeventfds.items() if bell.base == other.port]
    os.eventfd_write(fds[0], 1)
    assert other.rung.wait(DEADLINE)
    assert not device.rung.is_set()
    may_go_on.set()
    assert device.rung.wait(DEADLINE)


def assert_(holds: bool) -> None:
    assert holds


def test_what_has_rung_is_done_when_it_has_settled(rig: Rig, device: Busy) -> None:
    is_inside, may_go_on = threading.Event(), threading.Event()

    def work() -> None:
        is_inside.set()
        assert may_go_on.wait(DEADLINE)

    device.work = work
    start(rig)
    ring(rig)
    assert is_inside.wait(DEADLINE)
    settling = threading.Thread(target=rig.manager.settle)
    settling.start()
    settling.join(0.05)
    assert settling.is_alive()
    may_go_on.set()
    settling.join(DEADLINE)
    assert not settling.is_alive()
    assert device.rung.is_set()


def test_settling_where_nobody_has_a_thread_is_nothing(rig: Rig) -> None:
    rig.manager.settle()
    start(rig)
    rig.manager.settle()
    assert not rig.manager.is_own_thread()


def test_unplugged_it_is_rung_for_the_last_time_and_has_no_thread(
    rig: Rig, device: Busy
) -> None:
    before = open_fds()
    start(rig)
    ring(rig)
    rig.manager.remove(device)
    assert device.rung.is_set()
    assert names() == ["vmm-events"]
    assert device.get_assigned_resources() == DeviceResources()
    assert len(before) - len(open_fds()) == 3  # the bell, the loop's two
    rig.manager.add(device)
    assert names() == ["vmm-Busy", "vmm-events"]


def test_it_may_unplug_itself(rig: Rig, device: Busy) -> None:
    own: list[bool] = []

    def work() -> None:
        own.append(rig.manager.is_own_thread())
        rig.manager.remove(device)

    device.work = work
    start(rig)
    ring(rig)
    assert device.rung.wait(DEADLINE)
    rig.manager.settle()
    rig.loop.settle(lambda: None)
    assert own == [True]
    assert device.get_assigned_resources() == DeviceResources()
    assert names() == ["vmm-events"]


def test_what_it_raises_is_told_with_its_name(
    rig: Rig, device: Busy, errors: list[Exception]
) -> None:
    def work() -> None:
        raise ValueError("my bell")

    device.work = work
    start(rig)
    ring(rig)
    rig.manager.settle()
    (error,) = errors
    end = failure(error)
    assert end.reason is ExitReason.ERROR
    assert end.detail == "ValueError: my bell when a doorbell of device Busy rang"
    assert end.error is error


def test_one_that_has_to_be_locked_has_its_thread_and_name(rig: Rig) -> None:
    class Plain(DeviceIoMut):
        own_thread = True

        def get_doorbells(self) -> Sequence[Doorbell]:
            return [Doorbell(base=PORT, size=2, is_pio=True, on_ring=lambda: None)]

    device = Plain()
    rig.manager.add(Locked(device))
    start(rig)
    assert names() == ["vmm-Plain", "vmm-events"]
    threads: list[str] = []
    assert device.call_soon is not None
    device.call_soon(lambda: threads.append(threading.current_thread().name))
    rig.manager.settle()
    assert threads == ["vmm-Plain"]


def test_closed_before_it_starts_nothing_is_left(rig: Rig, device: Busy) -> None:
    rig.manager.close()
    rig.manager.close()
    assert names() == []
