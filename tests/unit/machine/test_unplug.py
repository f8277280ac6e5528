"""A device that is unplugged while somebody is in it: nobody loses anything."""

import errno
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest
from support.device_rig import CONSTRAINTS, PORT, Device, FakeVm, Rig
from support.fake_vcpu import FakeVcpu, io
from support.open_fds import open_fds
from support.scripted_entry import scripted_entry

from vmm.devices.doorbell import Doorbell
from vmm.devices.errors import NoDevice, ResourceError
from vmm.devices.fast_port import FastPort
from vmm.devices.resources import (
    LegacyIrqConstraint,
    PioAddressConstraint,
    ResourceConstraint,
)
from vmm.errors import ConfigError, VmmError
from vmm.event_loop import EventLoop
from vmm.kvm import abi
from vmm.kvm._libc import install_kick_handler
from vmm.kvm.coalesced import ENTRIES
from vmm.machine import device_manager
from vmm.memory import GuestMemory, Range
from vmm.result import ExitReason
from vmm.vcpu.control import End
from vmm.vcpu.run_loop import RunLoop

pytest_plugins = ("support.loop_fixtures",)

DEADLINE = 10.0  # seconds; for what takes a millisecond when all is well

OnLoop = Callable[[Callable[[], object]], None]

RING_PAGE = 2


class Slow(Device):
    """Stays in each access until it may go on, and then pulls its interrupt."""

    def __init__(self, constraints: Sequence[ResourceConstraint] = CONSTRAINTS) -> None:
        super().__init__(constraints)
        self.is_entered = threading.Event()
        self.may_go_on = threading.Event()
        self.within: Callable[[], None] = lambda: None
        self.writes: list[int] = []

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        self.is_entered.set()
        assert self.may_go_on.wait(DEADLINE)
        self.within()
        self.interrupts[0].trigger()
        self.writes.append(data[0])


class Guest:
    """A vCPU on a thread of its own, which writes to one port until it is stopped."""

    def __init__(self, rig: Rig, kind: str, port: int = PORT) -> None:
        self.rig = rig
        self.vcpu = FakeVcpu()
        self.write = io(port, 1, data=b"\1", is_write=True)
        self.memory = GuestMemory([Range(0, 0x4000)])
        entry = scripted_entry(kind, self.vcpu, rig.bus, self.run_vcpu)
        self.loop = RunLoop(
            self.vcpu, self.memory, rig.bus, rig.control, rescue=None, entry=entry
        )
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self.main)

    def run_vcpu(self) -> None:
        if self.vcpu.kvm_run[abi.KVM_RUN_IMMEDIATE_EXIT]:
            raise InterruptedError(errno.EINTR, "Interrupted system call")
        self.step()

    def step(self) -> None:
        """What the guest does next."""
        self.write(self.vcpu.kvm_run)

    def main(self) -> None:
        try:
            self.loop.run()
        except Exception as error:
            self.error = error

    def close(self) -> None:
        self.rig.control.finish(End(ExitReason.STOPPED))
        if self.thread.ident is not None:
            self.thread.join(DEADLINE)
        assert not self.thread.is_alive()
        self.vcpu.close()
        self.memory.close()
        assert self.error is None


class PostingGuest(Guest):
    """Has KVM collect some writes, and makes no exit any more."""

    def __init__(self, rig: Rig, kind: str) -> None:
        super().__init__(rig, kind)
        self.has_posted = threading.Event()
        self.vcpu.take_posted(RING_PAGE)

    def step(self) -> None:
        page = self.vcpu.kvm_run[RING_PAGE * 4096 :]
        ends = page[:8].cast("I")
        for value in range(3) if PORT in self.rig.vm.coalesced else ():
            at = 8 + 24 * ends[1]
            struct.pack_into("<QIIB", page, at, PORT, 1, 1, value)
            ends[1] = (ends[1] + 1) % ENTRIES
        self.has_posted.set()
        end = time.monotonic() + DEADLINE
        while not self.vcpu.kvm_run[abi.KVM_RUN_IMMEDIATE_EXIT]:
            assert time.monotonic() < end
            time.sleep(0.001)
        self.run_vcpu()


@pytest.fixture
def rig(loop: EventLoop) -> Iterator[Rig]:
    install_kick_handler()
    rig = Rig(loop)
    rig.power_on()
    loop.start()
    yield rig
    rig.manager.close()


@pytest.fixture(params=["python", "compiled"])
def guest(request: pytest.FixtureRequest, rig: Rig) -> Iterator[Guest]:
    guest = Guest(rig, request.param)
    yield guest
    guest.close()


class Unplugging(threading.Thread):
    """Somebody else who unplugs a device."""

    def __init__(self, rig: Rig, device: Device) -> None:
        super().__init__()
        self.rig = rig
        self.device = device
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.rig.manager.remove(self.device)
        except Exception as error:
            self.error = error

    def wait(self) -> None:
        self.join(DEADLINE)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def has_nothing(device: Device) -> bool:
    return not device.interrupts and not len(device.get_assigned_resources())


def inside(rig: Rig, guest: Guest) -> Slow:
    """A device that the guest's vCPU is in."""
    device = Slow()
    rig.manager.add(device)
    guest.thread.start()
    assert device.is_entered.wait(DEADLINE)
    return device


# Accesses in flight


def test_an_access_in_flight_keeps_its_interrupts(rig: Rig, guest: Guest) -> None:
    device = inside(rig, guest)
    unplugging = Unplugging(rig, device)
    eventually(lambda: rig.bus.device_at_port(PORT) is None)
    assert len(device.interrupts) == 1
    with pytest.raises(ResourceError):  # what it has isn't anybody else's yet
        rig.manager.add(Device())
    with pytest.raises(ConfigError, match="Slow is still being unplugged"):
        rig.manager.add(device)
    with pytest.raises(NoDevice):
        rig.manager.remove(device)
    assert unplugging.is_alive()
    device.may_go_on.set()
    unplugging.wait()
    assert device.writes == [1]
    assert has_nothing(device)
    assert rig.vm.irqfds == {}
    rig.manager.add(Device())


def test_a_device_that_does_not_come_back_is_told_and_keeps_what_it_has(
    rig: Rig, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_manager, "UNPLUG_S", 0.05)
    device = inside(rig, guest)
    with pytest.raises(VmmError, match="Slow is off the bus, but a vCPU or the event"):
        rig.manager.remove(device)
    assert rig.bus.device_at_port(PORT) is None
    assert len(device.interrupts) == 1
    with pytest.raises(ResourceError):
        rig.manager.add(Device())
    device.may_go_on.set()
    eventually(lambda: has_nothing(device))
    eventually(lambda: rig.is_empty)


def test_the_end_of_the_run_ends_the_wait(rig: Rig, guest: Guest) -> None:
    device = inside(rig, guest)
    unplugging = Unplugging(rig, device)
    eventually(lambda: rig.bus.device_at_port(PORT) is None)
    device.may_go_on.set()
    rig.control.finish(End(ExitReason.STOPPED))
    unplugging.wait()
    assert has_nothing(device)


def test_a_vm_that_goes_meanwhile_is_not_told_of_the_device_later(
    rig: Rig, guest: Guest
) -> None:
    device = inside(rig, guest)
    unplugging = Unplugging(rig, device)
    eventually(lambda: rig.bus.device_at_port(PORT) is None)
    rig.manager.power_off()
    assert rig.vm.irqfds == {}
    gone, rig.vm = rig.vm, FakeVm()
    rig.power_on()
    assert rig.vm.irqfds == {}
    device.may_go_on.set()
    unplugging.wait()
    assert gone.irqfds == {}


def test_closing_the_manager_ends_the_wait(rig: Rig, guest: Guest) -> None:
    device = inside(rig, guest)
    unplugging = Unplugging(rig, device)
    eventually(lambda: rig.bus.device_at_port(PORT) is None)
    rig.manager.close()
    unplugging.wait()
    device.may_go_on.set()


@pytest.mark.parametrize("kind", ["python", "compiled"])
def test_what_kvm_has_collected_for_it_is_delivered_first(rig: Rig, kind: str) -> None:
    class Posted(Slow):
        def get_fast_ports(self) -> dict[int, FastPort]:
            return {PORT: FastPort(posted=True)}

    device = Posted()
    device.may_go_on.set()
    rig.manager.add(device)
    with closing(PostingGuest(rig, kind)) as guest:
        guest.thread.start()
        assert guest.has_posted.wait(DEADLINE)
        rig.manager.remove(device)
    assert device.writes == [0, 1, 2]
    assert rig.vm.coalesced == []
    assert rig.bus.unclaimed_accesses == 0


# Unplugged by a device


def test_a_device_that_unplugs_itself_finishes_its_access(
    rig: Rig, guest: Guest
) -> None:
    device = Slow()
    device.within = lambda: rig.manager.remove(device)
    device.may_go_on.set()
    rig.manager.add(device)
    guest.thread.start()
    eventually(lambda: has_nothing(device))
    assert device.writes == [1]


def test_a_device_that_unplugs_itself_in_its_reset_finishes_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device()
    seen: list[int] = []

    def reset() -> None:
        rig.manager.remove(device)
        seen.append(len(device.interrupts))

    monkeypatch.setattr(device, "reset", reset)
    rig.manager.add(device)
    rig.manager.reset()
    eventually(lambda: has_nothing(device))
    assert seen == [1]


def test_two_vcpus_that_unplug_each_others_device_go_on(rig: Rig, guest: Guest) -> None:
    other_port = PORT + 0x100
    one = Slow()
    two = Slow(
        [PioAddressConstraint.at(other_port, 1), LegacyIrqConstraint(irq=6)],
    )
    both_inside = threading.Barrier(2)

    def unplug(device: Slow, other: Slow) -> None:
        device.within = lambda: None  # it may come here once more
        both_inside.wait(DEADLINE)
        rig.manager.remove(other)

    one.within = lambda: unplug(one, two)
    two.within = lambda: unplug(two, one)
    with closing(Guest(rig, "python", other_port)) as other:
        for each, device in (guest, one), (other, two):
            device.may_go_on.set()
            rig.manager.add(device)
            each.thread.start()
        eventually(lambda: has_nothing(one) and has_nothing(two))
    assert one.writes
    assert two.writes


# The event loop


class Bell(Device):
    """Rings, and does something then."""

    def __init__(self, on_ring: Callable[[], None]) -> None:
        super().__init__()
        self.bell = Doorbell(base=PORT, size=2, is_pio=True, on_ring=on_ring)

    def get_doorbells(self) -> Sequence[Doorbell]:
        return [self.bell]


def ring(rig: Rig) -> None:
    (fd,) = rig.vm.ioeventfds
    os.eventfd_write(fd, 1)


def test_a_ring_in_flight_is_waited_for(rig: Rig) -> None:
    is_entered, may_go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def on_ring() -> None:
        is_entered.set()
        assert may_go_on.wait(DEADLINE)
        seen.append(len(device.interrupts))

    device = Bell(on_ring)
    rig.manager.add(device)
    ring(rig)
    assert is_entered.wait(DEADLINE)
    unplugging = Unplugging(rig, device)
    eventually(lambda: rig.bus.device_at_port(PORT) is None)
    assert len(device.interrupts) == 1
    may_go_on.set()
    unplugging.wait()
    assert seen == [1]
    assert has_nothing(device)


def test_a_ring_that_nobody_has_heard_is_delivered_before_the_end(
    rig: Rig, on_loop: OnLoop
) -> None:
    seen: list[int] = []
    device = Bell(lambda: seen.append(len(device.interrupts)))
    rig.manager.add(device)

    def unplug() -> None:  # the loop is here, and can't hear it
        ring(rig)
        rig.manager.remove(device)
        assert rig.bus.device_at_port(PORT) is None
        assert len(device.interrupts) == 1  # it returns before the rest

    on_loop(unplug)
    eventually(lambda: has_nothing(device))
    assert seen == [1]


def test_a_device_unplugs_itself_when_it_is_rung(rig: Rig) -> None:
    device = Bell(lambda: rig.manager.remove(device))
    rig.manager.add(device)
    ring(rig)
    eventually(lambda: has_nothing(device))


def test_what_a_device_raises_when_it_loses_all_is_told_to_who_unplugs_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device()
    rig.manager.add(device)
    assign = device.assign_resources

    def refuse(*_: object) -> None:
        raise ValueError("mine")

    monkeypatch.setattr(device, "assign_resources", refuse)
    with pytest.raises(ValueError, match="mine"):
        rig.manager.remove(device)
    monkeypatch.setattr(device, "assign_resources", assign)
    rig.manager.add(Device())


def test_a_bell_that_raises_when_it_rings_for_the_last_time_leaves_nothing_behind(
    rig: Rig, on_loop: OnLoop
) -> None:
    rang: list[str] = []

    def fail() -> None:
        rang.append("first")
        raise ValueError("my bell")

    class Bells(Device):
        def get_doorbells(self) -> Sequence[Doorbell]:
            rings = fail, lambda: rang.append("second")
            return [
                Doorbell(base=PORT + at, size=1, is_pio=True, on_ring=ring)
                for at, ring in enumerate(rings)
            ]

    device = Bells()
    rig.manager.add(device)
    on_loop(lambda: None)  # they are watched
    fds = list(rig.vm.ioeventfds)
    before = open_fds()

    is_inside, may_go_on = threading.Event(), threading.Event()

    def busy() -> None:
        is_inside.set()
        assert may_go_on.wait(DEADLINE)

    def ring_both() -> None:  # and the loop doesn't hear it before the device goes
        for fd in fds:
            os.eventfd_write(fd, 1)

    rig.loop.call_soon(busy)
    assert is_inside.wait(DEADLINE)
    rig.loop.call_soon(ring_both)
    unplugging = Unplugging(rig, device)
    eventually(lambda: len(rig.loop._calls) == 1)
    may_go_on.set()
    with pytest.raises(ValueError, match="my bell"):
        unplugging.wait()
    assert rang == ["first", "second"]
    assert has_nothing(device)
    assert len(before) - len(open_fds()) == 3  # the bells, and its interrupt's
    rig.manager.add(device)


def test_a_device_comes_off_though_the_event_loop_fails() -> None:
    errors: list[str] = []
    is_inside, may_fail = threading.Event(), threading.Event()

    def fail() -> None:
        is_inside.set()
        assert may_fail.wait(DEADLINE)
        raise ValueError("another device's timer")

    with closing(EventLoop(lambda error: errors.append(str(error)))) as loop:
        rig, device = Rig(loop), Device()
        rig.manager.add(device)
        loop.start()
        loop.call_soon(fail)
        assert is_inside.wait(DEADLINE)
        unplugging = Unplugging(rig, device)
        eventually(lambda: rig.bus.device_at_port(PORT) is None)
        may_fail.set()
        unplugging.wait()
        assert has_nothing(device)
        rig.manager.close()
    assert errors == ["another device's timer"]


def test_doorbells_unplugged_before_the_loop_starts_are_not_watched(
    loop: EventLoop, on_loop: OnLoop
) -> None:
    rig = Rig(loop)
    device = Bell(lambda: None)
    rig.manager.add(device)
    rig.manager.remove(device)
    loop.start()
    on_loop(lambda: None)  # it still runs
    rig.manager.close()
