"""MsiRoutes: which messages KVM is told of, when, and by how many calls."""

import errno
import os
from collections.abc import Iterator
from typing import cast

import pytest
from support.device_rig import Device, FakeVm, Rig
from support.open_fds import open_fds

from vmm.devices.errors import TriggerError
from vmm.devices.resources import GenericIrqConstraint, PciMsixIrqConstraint
from vmm.devices.trigger import MsiInterrupt
from vmm.errors import VmmError
from vmm.event_loop import EventLoop
from vmm.eventfd import EventFd
from vmm.kvm.abi import KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER

pytest_plugins = ("support.loop_fixtures",)

LAPIC = 0xFEE0_0000


@pytest.fixture
def rig(loop: EventLoop) -> Iterator[Rig]:
    rig = Rig(loop)
    yield rig
    rig.manager.close()


def messages(device: Device) -> list[MsiInterrupt]:
    return [cast("MsiInterrupt", interrupt) for interrupt in device.interrupts]


def plugged(rig: Rig, size: int = 2) -> Device:
    device = Device([PciMsixIrqConstraint(size=size)])
    rig.manager.add(device)
    return device


def test_what_is_not_routed_costs_kvm_nothing(rig: Rig) -> None:
    device = plugged(rig)
    rig.power_on()
    device.interrupts[0].trigger()
    assert (rig.vm.tables, rig.vm.irqfds) == ([], {})


def test_a_route_is_a_message_and_an_irqfd(rig: Rig) -> None:
    first, second = messages(plugged(rig))
    rig.power_on()
    second.route(LAPIC | 1 << 12, 0x4041)
    assert rig.vm.messages == {25: (LAPIC | 1 << 12, 0x4041)}
    assert list(rig.vm.irqfds.values()) == [25]
    first.route(LAPIC, 0x42)
    assert rig.vm.messages == {25: (LAPIC | 1 << 12, 0x4041), 24: (LAPIC, 0x42)}
    assert sorted(rig.vm.irqfds.values()) == [24, 25]


def test_the_table_has_all_pins_where_kvm_has_them(rig: Rig) -> None:
    (message,) = messages(plugged(rig, size=1))
    rig.power_on()
    message.route(LAPIC, 0)
    pins = [
        (route.gsi, route.u.irqchip.irqchip, route.u.irqchip.pin)
        for route in rig.vm.tables[0]
        if route.gsi < 24
    ]
    assert {gsi: pin for gsi, chip, pin in pins if chip == KVM_IRQCHIP_IOAPIC} == {
        n: n for n in range(24)
    }
    pics = [(gsi, chip, pin) for gsi, chip, pin in pins if chip != KVM_IRQCHIP_IOAPIC]
    assert pics == [(n, KVM_IRQCHIP_PIC_MASTER + n // 8, n % 8) for n in range(16)]


def test_the_same_route_again_is_no_call(rig: Rig) -> None:
    (message,) = messages(plugged(rig, size=1))
    rig.power_on()
    message.route(LAPIC, 0x41)
    message.route(LAPIC, 0x41)
    assert len(rig.vm.tables) == 1
    message.route(LAPIC, 0x42)
    assert rig.vm.messages == {24: (LAPIC, 0x42)}
    assert len(rig.vm.irqfds) == 1


def test_an_edge_before_the_first_route_is_lost(rig: Rig) -> None:
    (message,) = messages(plugged(rig, size=1))
    rig.power_on()
    message.trigger()
    message.route(LAPIC, 0x41)
    (fd,) = rig.vm.irqfds
    with pytest.raises(BlockingIOError):
        os.eventfd_read(fd)


def test_the_next_vm_has_all_routes_by_one_call(rig: Rig) -> None:
    for at, message in enumerate(messages(plugged(rig, size=8))):
        message.route(LAPIC, at)
    rig.power_on()
    assert len(rig.vm.tables) == 1
    assert len(rig.vm.irqfds) == 8
    rig.manager.power_off()
    assert rig.vm.cut == []  # the VM takes them along
    rig.vm = FakeVm()
    rig.power_on()
    assert len(rig.vm.tables) == 1
    assert rig.vm.messages == {24 + at: (LAPIC, at) for at in range(8)}


def test_routes_in_one_with_are_one_call(rig: Rig) -> None:
    several = messages(plugged(rig, size=8))
    rig.power_on()
    with rig.manager.routing_together():
        for at, message in enumerate(several):
            message.route(LAPIC, at)
        assert rig.vm.tables == []
    assert len(rig.vm.tables) == 1
    assert len(rig.vm.irqfds) == 8


def test_an_edge_of_a_restore_is_sent_when_its_route_is_there(rig: Rig) -> None:
    """A device's restore routes its messages, and raises what it may have lost."""
    first, second = messages(plugged(rig))
    first.route(LAPIC, 1)
    rig.power_on()
    with rig.manager.routing_together():
        for message in first, second:
            message.route(LAPIC, 2)
            message.trigger()
        (fd,) = rig.vm.irqfds
        with pytest.raises(BlockingIOError):  # it would be the message of before
            os.eventfd_read(fd)
    assert [os.eventfd_read(fd) for fd in rig.vm.irqfds] == [1, 1]


def test_one_who_is_always_changing_routes_holds_up_nobody(rig: Rig) -> None:
    first, second = messages(plugged(rig))
    rig.power_on()
    with first.together():
        with second.together():
            second.route(LAPIC, 2)
            second.trigger()
        (fd,) = rig.vm.irqfds
        assert os.eventfd_read(fd) == 1


def test_only_messages_that_were_sent_are_flushed(rig: Rig) -> None:
    first, second = messages(plugged(rig))
    rig.power_on()
    first.route(LAPIC, 1)
    second.route(LAPIC, 2)
    second.trigger()
    rig.manager.flush()
    rig.manager.flush()
    assert rig.vm.cut == [25]
    assert sorted(rig.vm.irqfds.values()) == [24, 25]


def test_an_unplugged_devices_messages_go_nowhere(rig: Rig) -> None:
    device, other = plugged(rig, size=1), plugged(rig, size=1)
    rig.power_on()
    for message in (*messages(device), *messages(other)):
        message.route(LAPIC, 0x41)
    (message,) = messages(device)
    rig.manager.remove(device)
    assert list(rig.vm.irqfds.values()) == [25]
    message.trigger()
    message.route(LAPIC, 0x99)
    assert len(rig.vm.tables) == 2
    rig.manager.power_off()
    rig.vm = FakeVm()
    rig.power_on()
    assert rig.vm.messages == {25: (LAPIC, 0x41)}


@pytest.mark.parametrize("address", [0, 0xFEC0_0000, 0xFEF0_0000, LAPIC | 1 << 32])
def test_a_message_that_is_no_interrupt_is_refused(rig: Rig, address: int) -> None:
    (message,) = messages(plugged(rig, size=1))
    rig.power_on()
    with pytest.raises(TriggerError, match=f"no CPU takes interrupts at {address:#x}"):
        message.route(address, 0)
    assert rig.vm.tables == []


def test_what_kvm_refuses_is_a_trigger_error_and_tried_again(rig: Rig) -> None:
    first, second = messages(plugged(rig))
    rig.power_on()
    rig.vm.refuses_tables = True
    with pytest.raises(TriggerError, match="MSI 24: Invalid argument"):
        first.route(LAPIC, 1)
    rig.vm.refuses_tables = False
    second.route(LAPIC, 2)
    assert rig.vm.messages == {24: (LAPIC, 1), 25: (LAPIC, 2)}
    assert len(rig.vm.irqfds) == 2


def test_what_kvm_has_refused_is_not_taken_for_done(rig: Rig) -> None:
    (message,) = messages(plugged(rig, size=1))
    rig.power_on()
    rig.vm.refuses_tables = True
    text = "Invalid argument"
    with pytest.raises(TriggerError, match=text), message.together():
        message.route(LAPIC, 1)
    with pytest.raises(TriggerError, match=text):
        message.route(LAPIC, 1)
    rig.vm.refuses_tables = False
    message.route(LAPIC, 1)
    assert rig.vm.messages == {24: (LAPIC, 1)}


def test_a_message_has_no_level(rig: Rig) -> None:
    (message,) = messages(plugged(rig, size=1))
    with pytest.raises(TriggerError, match="edge-triggered"):
        message.set_level(True)


def test_any_device_may_have_messages(rig: Rig) -> None:
    device = Device([GenericIrqConstraint(size=1)])
    rig.manager.add(device)
    rig.power_on()
    messages(device)[0].route(LAPIC, 0x41)
    assert rig.vm.messages == {24: (LAPIC, 0x41)}


def test_more_messages_than_descriptors_are_refused_with_the_remedy(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def eventfd(*_: int) -> int:
        if len(made) == 3:
            raise OSError(errno.EMFILE, "Too many open files")
        made.append(os.memfd_create("eventfd"))
        return made[-1]

    monkeypatch.setattr(os, "eventfd", eventfd)
    before = open_fds()
    text = "Device: 8 interrupts, which take a file descriptor each: Too many open fil"
    with pytest.raises(VmmError, match=text):
        plugged(rig, size=8)
    assert open_fds() == before
    assert rig.is_empty


# Eventfds of somebody else's


@pytest.fixture
def other() -> Iterator[EventFd]:
    event = EventFd()
    yield event
    event.close()


def test_another_eventfd_sends_the_message_too(other: EventFd, rig: Rig) -> None:
    (message,) = messages(plugged(rig, size=1))
    rig.power_on()
    message.route(LAPIC, 0x41)
    other.signal()
    message.listen(other.fd)
    assert len(rig.vm.irqfds) == 2
    assert rig.vm.irqfds[other.fd] == 24
    assert other.take()  # what it has is left to KVM
    message.unlisten(other.fd)
    message.unlisten(other.fd)
    assert other.fd not in rig.vm.irqfds
    assert len(rig.vm.irqfds) == 1


def test_another_eventfd_is_heard_once_there_is_a_route(
    other: EventFd, rig: Rig
) -> None:
    (message,) = messages(plugged(rig, size=1))
    rig.power_on()
    message.listen(other.fd)
    assert rig.vm.irqfds == {}
    message.route(LAPIC, 0x41)
    assert rig.vm.irqfds[other.fd] == 24


def test_the_next_vm_hears_other_eventfds(other: EventFd, rig: Rig) -> None:
    (message,) = messages(plugged(rig, size=1))
    message.route(LAPIC, 0x41)
    message.listen(other.fd)
    for _ in range(2):
        rig.vm = FakeVm()
        rig.power_on()
        assert rig.vm.irqfds[other.fd] == 24
        rig.manager.power_off()


def test_device_that_goes_takes_other_eventfds_along(other: EventFd, rig: Rig) -> None:
    device = plugged(rig, size=1)
    (message,) = messages(device)
    rig.power_on()
    message.route(LAPIC, 0x41)
    message.listen(other.fd)
    rig.manager.remove(device)
    assert rig.vm.irqfds == {}
    message.listen(other.fd)
    assert rig.vm.irqfds == {}
