"""DeviceManager.remap: a device moves its ranges, and its doorbells follow."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest
from support.device_rig import PORT, Device, FakeVm, Rig
from support.open_fds import open_fds

from vmm.devices.doorbell import Doorbell
from vmm.devices.errors import NoDevice
from vmm.devices.resources import (
    DeviceResources,
    MmioAddressRange,
    PioAddressConstraint,
    PioAddressRange,
    Resource,
)
from vmm.event_loop import EventLoop
from vmm.eventfd import EventFd

pytest_plugins = ("support.loop_fixtures",)

DEADLINE = 10.0  # seconds; for what takes a millisecond when all is well
OnLoop = Callable[[Callable[[], object]], None]
LOW, HIGH = 0xE800_0000, 0x60_0000_0000


class Movable(Device):
    """One page, and a doorbell in it; nothing is decoded at first."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(())
        self.rig = rig
        self.trapped: list[Resource] = []
        self.eventfd: int | None = None
        self.rings: list[int] = []
        self.rung = threading.Event()

    def get_trapped_io_resources(self) -> DeviceResources:
        return DeviceResources(self.trapped)

    def get_doorbells(self) -> Sequence[Doorbell]:
        return [
            Doorbell(
                base=base + 0x10,
                size=2,
                on_ring=partial(self.ring, base),
                eventfd=self.eventfd,
            )
            for base, _ in self.get_trapped_io_resources().get_mmio_address_ranges()
        ]

    def ring(self, base: int) -> None:
        self.rings.append(base)
        self.rung.set()

    def move(self, *after: Resource) -> bool:
        before, self.trapped = self.trapped, list(after)
        done = self.rig.manager.remap(self, before, after)
        if not done:
            self.trapped = before
        return done

    def read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = b"\x2a" * len(data)


def page(base: int) -> MmioAddressRange:
    return MmioAddressRange(base, 0x1000)


@pytest.fixture
def rig(loop: EventLoop) -> Iterator[Rig]:
    rig = Rig(loop)
    yield rig
    rig.manager.close()


@pytest.fixture
def device(rig: Rig) -> Movable:
    device = Movable(rig)
    rig.manager.add(device)
    return device


def bells(rig: Rig) -> list[int]:
    return [bell.base for bell in rig.vm.ioeventfds.values()]


def test_ranges_and_doorbells_move_together(rig: Rig, device: Movable) -> None:
    rig.power_on()
    assert device.move(page(LOW))
    assert (rig.bus.device_at_address(LOW), bells(rig)) == (device, [LOW + 0x10])
    assert device.move(page(HIGH), PioAddressRange(0xC000, 4))
    assert rig.bus.device_at_address(LOW) is None
    assert rig.bus.device_at_address(HIGH) is device
    assert rig.bus.device_at_port(0xC003) is device
    assert bells(rig) == [HIGH + 0x10]
    assert device.move()
    assert rig.bus.device_at_address(HIGH) is None
    assert bells(rig) == []


def test_a_place_that_others_have_changes_nothing(rig: Rig, device: Movable) -> None:
    other = Device([PioAddressConstraint.at(PORT, 4)])
    rig.manager.add(other)
    rig.power_on()
    assert device.move(page(LOW))
    assert not device.move(page(HIGH), PioAddressRange(PORT + 3, 4))
    assert rig.bus.device_at_address(LOW) is device
    assert rig.bus.device_at_address(HIGH) is None
    assert bells(rig) == [LOW + 0x10]


def test_a_range_may_move_over_where_it_was(rig: Rig, device: Movable) -> None:
    assert device.move(page(LOW))
    assert device.move(page(LOW + 0x800))
    assert rig.bus.device_at_address(LOW) is None
    assert rig.bus.device_at_address(LOW + 0x17FF) is device


def test_what_moved_before_power_on_is_offloaded_then(
    rig: Rig, device: Movable
) -> None:
    assert device.move(page(LOW))
    rig.power_on()
    assert bells(rig) == [LOW + 0x10]
    rig.manager.power_off()
    assert device.move(page(HIGH))
    rig.vm = FakeVm()
    rig.power_on()
    assert bells(rig) == [HIGH + 0x10]


def test_a_ring_from_before_the_move_is_heard(
    rig: Rig, device: Movable, on_loop: OnLoop
) -> None:
    rig.power_on()
    device.move(page(LOW))
    (old,) = rig.vm.ioeventfds
    rig.loop.start()
    is_inside, may_go_on = threading.Event(), threading.Event()

    def busy() -> None:
        is_inside.set()
        assert may_go_on.wait(DEADLINE)

    rig.loop.call_soon(busy)
    assert is_inside.wait(DEADLINE)
    os.eventfd_write(old, 1)
    device.move(page(HIGH))
    may_go_on.set()
    assert device.rung.wait(DEADLINE)
    assert device.rings == [LOW]
    device.rung.clear()
    (new,) = rig.vm.ioeventfds
    os.eventfd_write(new, 1)
    assert device.rung.wait(DEADLINE)
    assert device.rings == [LOW, HIGH]
    on_loop(lambda: None)


def test_a_bell_that_stays_keeps_its_eventfd(rig: Rig, device: Movable) -> None:
    rig.power_on()
    device.move(page(LOW))
    before = dict(rig.vm.ioeventfds)
    device.move(page(LOW), PioAddressRange(0xC000, 4))
    assert rig.vm.ioeventfds.keys() == before.keys()


def test_a_bell_that_stays_may_have_another_eventfd(rig: Rig, device: Movable) -> None:
    first, second = EventFd(), EventFd()
    rig.power_on()
    for event in first, second:
        device.eventfd = event.fd
        assert device.move(page(LOW))
        assert list(rig.vm.ioeventfds) == [event.fd]
    rig.manager.remove(device)
    assert rig.vm.ioeventfds == {}
    first.close()
    second.close()


def test_a_guest_that_moves_on_and_on_takes_no_more_descriptors(
    rig: Rig, device: Movable
) -> None:
    """Though the loop, which doesn't run, lets go of none."""
    rig.power_on()
    device.move(page(LOW))
    before = open_fds()
    for _ in range(100):
        device.move()
        device.move(page(HIGH))
        device.move(page(LOW))
    assert open_fds() == before
    assert bells(rig) == [LOW + 0x10]


def test_a_doorbell_that_kvm_refuses_stays_an_exit(rig: Rig, device: Movable) -> None:
    rig.power_on()
    rig.vm.refuses_ioeventfds = True
    assert device.move(page(LOW))
    assert rig.bus.device_at_address(LOW) is device
    rig.vm.refuses_ioeventfds = False
    assert device.move(page(HIGH))
    assert bells(rig) == [HIGH + 0x10]


def test_somebody_slow_who_is_plugged_in_holds_up_no_move(
    rig: Rig, device: Movable
) -> None:
    is_inside, may_go_on = threading.Event(), threading.Event()

    class Slow(Device):
        def assign_resources(self, *_: object) -> None:
            is_inside.set()
            assert may_go_on.wait(DEADLINE)

    thread = threading.Thread(target=rig.manager.add, args=(Slow(()),))
    thread.start()
    try:
        assert is_inside.wait(DEADLINE)
        assert device.move(page(LOW))
    finally:
        may_go_on.set()
        thread.join()


def test_a_device_that_is_not_plugged_in_moves_nothing(rig: Rig) -> None:
    device = Movable(rig)
    assert not device.move(page(LOW))
    rig.manager.add(device)
    rig.manager.remove(device)
    assert not device.move(page(LOW))
    assert rig.bus.device_at_address(LOW) is None


def test_ranges_that_it_has_not_are_its_bug(rig: Rig, device: Movable) -> None:
    with pytest.raises(NoDevice):
        rig.manager.remap(device, [page(LOW)], [page(HIGH)])


def test_moves_and_an_unplug_leave_nothing(rig: Rig, device: Movable) -> None:
    before = open_fds()
    rig.power_on()
    for base in (LOW, HIGH, LOW):
        device.move(page(base))
    rig.manager.remove(device)
    assert open_fds() == before
    assert bells(rig) == []
    assert rig.is_empty


def test_others_are_plugged_in_while_it_moves(rig: Rig, device: Movable) -> None:
    """Neither sees a conflict of the other's."""
    ends = threading.Event()
    refused: list[int] = []

    def move() -> None:
        while not ends.is_set():
            refused.extend(at for at in (LOW, HIGH) if not device.move(page(at)))

    thread = threading.Thread(target=move)
    thread.start()
    try:
        for _ in range(200):
            other = Device([PioAddressConstraint.at(PORT, 4)])
            rig.manager.add(other)
            rig.manager.remove(other)
    finally:
        ends.set()
        thread.join()
    assert refused == []


def test_a_ring_that_the_loop_hears_as_its_bell_is_withdrawn_is_not_lost(
    rig: Rig, device: Movable, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.power_on()
    device.move(page(LOW))
    (fd,) = rig.vm.ioeventfds
    rig.loop.start()
    rig.loop.settle(lambda: None)
    take = EventFd.take

    def take_after_the_loop(event: EventFd) -> bool:
        if event.fd == fd and not rig.loop.is_own_thread():
            os.eventfd_write(fd, 1)
            rig.loop.settle(lambda: None)
        return take(event)

    monkeypatch.setattr(EventFd, "take", take_after_the_loop)
    device.move(page(HIGH))
    assert device.rings == [LOW]


def test_a_ring_that_the_loop_takes_for_that_of_before_is_not_lost(
    rig: Rig, device: Movable, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.power_on()
    device.move(page(LOW))
    (fd,) = rig.vm.ioeventfds
    rig.loop.start()
    rig.loop.settle(lambda: None)
    drain = EventFd.drain

    def drain_after_a_move(event: EventFd) -> None:
        if event.fd == fd and device.trapped == [page(LOW)]:
            device.move(page(HIGH))
            os.eventfd_write(fd, 1)
        drain(event)

    monkeypatch.setattr(EventFd, "drain", drain_after_a_move)
    os.eventfd_write(fd, 1)
    rig.loop.settle(lambda: None)
    rig.loop.settle(lambda: None)
    assert {LOW, HIGH} == set(device.rings)


def test_rings_around_a_move_are_all_heard(rig: Rig) -> None:
    """Whichever of both the loop's thread is at, when one takes the other's place."""
    heard = {base: threading.Event() for base in (LOW, HIGH)}

    class Listening(Movable):
        def ring(self, base: int) -> None:
            heard[base].set()

    device = Listening(rig)
    rig.manager.add(device)
    rig.power_on()
    rig.loop.start()
    for _ in range(1000):
        for base in heard:
            heard[base].clear()
            device.move(page(base))
            (fd,) = rig.vm.ioeventfds
            os.eventfd_write(fd, 1)
        for event in heard.values():
            assert event.wait(DEADLINE)
