"""DeviceManager: plug, unplug, power; all of it or nothing."""

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from support.device_rig import CONSTRAINTS, PORT, Device, FakeVideo, FakeVm, Rig
from support.open_fds import open_fds

from vmm.boot.layout import device_addresses, ram_ranges
from vmm.devices.bus.resource_manager import PoolLayout, ResourceManager
from vmm.devices.doorbell import Doorbell
from vmm.devices.errors import DeviceOverlap, NoDevice, ResourceError, TriggerError
from vmm.devices.fast_port import FastPort
from vmm.devices.resources import (
    DeviceResources,
    GenericIrqConstraint,
    LegacyIrqConstraint,
    MmioAddressConstraint,
    PioAddressConstraint,
    PioAddressRange,
)
from vmm.errors import ConfigError, VmmError
from vmm.event_loop import EventLoop
from vmm.eventfd import EventFd
from vmm.machine.device_manager import DeviceManager

if TYPE_CHECKING:
    from vmm.devices.trigger import Interrupt

pytest_plugins = ("support.loop_fixtures",)

DEADLINE = 10.0  # seconds; for what takes a millisecond when all is well


@pytest.fixture
def rig(loop: EventLoop) -> Iterator[Rig]:
    rig = Rig(loop)
    yield rig
    rig.manager.close()


# The flow


def test_device_is_asked_given_and_trapped_in_this_order(rig: Rig) -> None:
    device = Device()
    rig.manager.add(device)
    assert device.calls == ["constraints", "assign", "trapped"]


def test_devices_are_described_in_their_order_while_they_are_plugged_in(
    rig: Rig,
) -> None:
    first, second = Device(), Device([PioAddressConstraint.at(0x700, 1)])
    rig.manager.add(first)
    rig.manager.add(second)
    resources = [device.resources for device in rig.manager.acpi_devices()]
    assert resources == [first.resources, second.resources]
    rig.manager.remove(first)
    assert [device.resources for device in rig.manager.acpi_devices()] == resources[1:]


def test_device_gets_what_it_asked_for(rig: Rig) -> None:
    device = Device()
    rig.manager.add(device)
    given = device.get_assigned_resources()
    assert given.get_pio_address_ranges() == [(PORT, 4)]
    assert given.get_legacy_irq() == 5
    assert len(device.interrupts) == 1


def test_device_is_at_its_ranges(rig: Rig) -> None:
    device = Device()
    rig.manager.add(device)
    ((mmio, _),) = device.get_assigned_resources().get_mmio_address_ranges()
    assert rig.bus.device_at_port(PORT + 3) is device
    assert rig.bus.device_at_address(mmio) is device


def test_device_without_constraints_can_be_plugged(rig: Rig) -> None:
    rig.manager.add(Device(()))


def test_reset_reaches_every_device(rig: Rig) -> None:
    devices = Device(()), Device(())
    for device in devices:
        rig.manager.add(device)
    rig.manager.reset()
    assert [device.calls[-1] for device in devices] == ["reset", "reset"]


# Interrupt lines


def test_power_on_connects_the_lines(rig: Rig) -> None:
    rig.manager.add(Device())
    rig.power_on()
    assert list(rig.vm.irqfds.values()) == [5]


def test_only_lines_that_were_triggered_are_flushed(rig: Rig) -> None:
    device = Device()
    rig.manager.add(device)
    rig.power_on()
    rig.manager.flush()
    assert rig.vm.cut == []
    device.interrupts[0].trigger()
    rig.manager.flush()
    rig.manager.flush()
    assert rig.vm.cut == [5]
    assert list(rig.vm.irqfds.values()) == [5]


def test_a_vm_that_is_put_back_loses_interrupts_and_translations(rig: Rig) -> None:
    device = Device()
    rig.manager.add(device)
    rig.power_on()
    device.interrupts[0].trigger()
    rig.manager.put_back()
    assert rig.vm.cut == [5]
    assert rig.video.renewals == 1


def test_trigger_reaches_the_connected_eventfd(rig: Rig) -> None:
    device = Device()
    rig.manager.add(device)
    rig.power_on()
    device.interrupts[0].trigger()
    (eventfd,) = rig.vm.irqfds
    assert os.eventfd_read(eventfd) == 1


def test_power_off_disconnects_the_lines(rig: Rig) -> None:
    rig.manager.add(Device())
    rig.power_on()
    rig.manager.power_off()
    assert rig.vm.irqfds == {}


def test_next_vm_gets_the_same_lines(rig: Rig) -> None:
    rig.manager.add(Device())
    rig.power_on()
    before = dict(rig.vm.irqfds)
    rig.manager.power_off()
    rig.power_on()
    assert rig.vm.irqfds == before


def test_device_plugged_while_it_runs_is_connected_at_once(rig: Rig) -> None:
    rig.power_on()
    rig.manager.add(Device())
    assert list(rig.vm.irqfds.values()) == [5]


# Level-triggered lines


def leveled(irq: int = 5) -> Device:
    """A device with a level-triggered line, which it shares."""
    return Device([LegacyIrqConstraint(irq=irq, shared=True, level=True)])


def plugged(rig: Rig, *devices: Device) -> "list[Interrupt]":
    for device in devices:
        rig.manager.add(device)
    return [device.interrupts[0] for device in devices]


def test_a_level_is_set_once_each_way(rig: Rig) -> None:
    (line,) = plugged(rig, leveled())
    rig.power_on()
    for high in (False, True, True, False, False):
        line.set_level(high)
    assert rig.vm.lines == [(5, True), (5, False)]
    assert rig.vm.irqfds == {}


def test_a_shared_line_is_high_while_anybody_holds_it(rig: Rig) -> None:
    one, two = plugged(rig, leveled(), leveled())
    rig.power_on()
    one.set_level(True)
    two.set_level(True)
    one.set_level(False)
    assert rig.vm.lines == [(5, True)]
    two.set_level(False)
    assert rig.vm.lines == [(5, True), (5, False)]


def test_a_line_that_is_held_is_high_in_the_next_vm(rig: Rig) -> None:
    held, _ = plugged(rig, leveled(5), leveled(6))
    held.set_level(True)  # before there is one
    rig.power_on()
    assert rig.vm.lines == [(5, True)]
    rig.manager.power_off()
    rig.vm = FakeVm()
    rig.power_on()
    assert rig.vm.lines == [(5, True)]


def test_between_two_vms_levels_change_unseen(rig: Rig) -> None:
    (line,) = plugged(rig, leveled())
    rig.power_on()
    line.set_level(True)
    rig.manager.power_off()
    line.set_level(False)
    rig.power_on()
    assert rig.vm.lines == [(5, True)]


def test_an_unplugged_device_lets_go_for_good(rig: Rig) -> None:
    device = leveled()
    (line,) = plugged(rig, device)
    rig.power_on()
    line.set_level(True)
    rig.manager.remove(device)
    line.set_level(True)
    assert rig.vm.lines == [(5, True), (5, False)]


def test_edges_and_levels_are_refused_where_the_other_was_asked_for(rig: Rig) -> None:
    level, edge = plugged(rig, leveled(6), Device())
    with pytest.raises(TriggerError, match="interrupt 6 is level-triggered"):
        level.trigger()
    with pytest.raises(TriggerError, match="this interrupt is edge-triggered"):
        edge.set_level(True)


def test_a_line_that_kvm_refuses_is_a_trigger_error(rig: Rig) -> None:
    (line,) = plugged(rig, leveled())
    rig.power_on()
    rig.vm.refuses_lines = True
    with pytest.raises(TriggerError, match="interrupt line 5: KVM_IRQ_LINE failed"):
        line.set_level(True)
    rig.vm.refuses_lines = False


def test_the_lines_that_are_level_triggered_are_told(rig: Rig) -> None:
    plugged(rig, leveled(11), leveled(11), Device())
    assert rig.manager.level_irqs() == {11}


# Video memory


@pytest.mark.parametrize(
    ("base", "size", "claims"),
    [(0xA_0000, 0x2_0000, 1), (0xB_8000, 1, 1), (0xE800_0000, 0x1000, 0)],
)
def test_a_device_in_the_video_window_has_it(
    loop: EventLoop, base: int, size: int, claims: int
) -> None:
    rig = Rig(loop)
    addresses = PoolLayout(addresses=device_addresses(ram_ranges(64 << 20)))
    rig.manager = DeviceManager(ResourceManager(addresses), rig.bus, loop, rig.control)
    device = Device([MmioAddressConstraint.at(base, size)])
    rig.manager.add(device)
    rig.power_on()
    assert rig.video.claims == claims
    rig.manager.power_off()
    assert rig.video.claims == claims  # the VM takes it along
    rig.video = FakeVideo()
    rig.power_on()
    rig.manager.remove(device)
    assert rig.video.claims == 0
    rig.manager.close()


# Doorbells and posted ports


class Rung(Device):
    """Has both, and tells when it was rung."""

    def __init__(self) -> None:
        super().__init__()
        self.rung = threading.Event()
        self.bell = Doorbell(
            base=PORT, size=2, value=7, is_pio=True, on_ring=self.rung.set
        )

    def get_doorbells(self) -> "Sequence[Doorbell]":
        return [self.bell]

    def get_fast_ports(self) -> "dict[int, FastPort]":
        return {PORT: FastPort(posted=True), PORT + 1: FastPort()}


def test_power_on_connects_doorbells_and_posted_ports(rig: Rig) -> None:
    device = Rung()
    rig.manager.add(device)
    rig.power_on()
    assert list(rig.vm.ioeventfds.values()) == [device.bell]
    assert rig.vm.coalesced == [PORT]


def test_doorbell_with_an_eventfd_of_its_own_has_kvm_signal_that(rig: Rig) -> None:
    device = Rung()
    with closing(EventFd()) as event:
        device.bell = device.bell.replace(eventfd=event.fd)
        rig.manager.add(device)
        rig.power_on()
        assert rig.vm.ioeventfds == {event.fd: device.bell}
        event.signal()
        rig.manager.remove(device)
        assert rig.vm.ioeventfds == {}
        assert event.take()  # nobody of ours has listened
    assert not device.rung.is_set()


def test_posted_ports_and_doorbells_are_taken_away_unless_the_vm_goes(
    rig: Rig,
) -> None:
    device = Rung()
    rig.manager.add(device)
    rig.power_on()
    rig.manager.power_off()
    assert rig.vm.coalesced == [PORT]  # the VM takes it along
    assert list(rig.vm.ioeventfds.values()) == [device.bell]
    rig.vm = FakeVm()
    rig.power_on()
    assert rig.vm.coalesced == [PORT]
    assert list(rig.vm.ioeventfds.values()) == [device.bell]
    rig.manager.remove(device)
    assert rig.vm.coalesced == []
    assert rig.vm.ioeventfds == {}


def test_what_rings_is_told_on_the_loop(rig: Rig, loop: EventLoop) -> None:
    device = Rung()
    rig.power_on()
    rig.manager.add(device)
    loop.start()
    (eventfd,) = rig.vm.ioeventfds
    os.eventfd_write(eventfd, 3)
    assert device.rung.wait(DEADLINE)
    rig.manager.remove(device)
    assert rig.vm.ioeventfds == {}


def test_without_leave_to_post_nothing_is_coalesced(loop: EventLoop) -> None:
    rig = Rig(loop)
    rig.manager._posts = False
    rig.manager.add(Rung())
    rig.power_on()
    assert rig.vm.coalesced == []
    rig.manager.close()


# Unplugging


def test_unplugged_device_is_off_bus_line_and_pools(rig: Rig) -> None:
    rig.power_on()
    device = Device()
    rig.manager.add(device)
    rig.manager.remove(device)
    assert rig.vm.irqfds == {}
    assert rig.is_empty
    assert len(device.get_assigned_resources()) == 0


def test_unplugged_device_may_still_pull_its_line(rig: Rig) -> None:
    device = Device()
    rig.manager.add(device)
    trigger = device.interrupts[0]
    rig.manager.remove(device)
    trigger.trigger()


def test_unplugged_device_can_be_plugged_again(rig: Rig) -> None:
    device = Device()
    rig.manager.add(device)
    rig.manager.remove(device)
    rig.manager.add(device)
    assert rig.bus.device_at_port(PORT) is device


def test_unplugging_what_is_not_plugged_is_refused(rig: Rig) -> None:
    with pytest.raises(NoDevice, match="Device is not plugged in"):
        rig.manager.remove(Device())


def test_plugging_and_unplugging_leaves_no_descriptor(rig: Rig) -> None:
    before = open_fds()
    device = Device()
    rig.manager.add(device)
    rig.manager.remove(device)
    assert open_fds() == before


# Failures change nothing


def refuse(rig: Rig, device: Device, kind: type[Exception], message: str) -> None:
    rig.power_on()
    before = open_fds()
    with pytest.raises(kind, match=message):
        rig.manager.add(device)
    assert rig.is_empty
    assert rig.vm.irqfds == {}
    assert open_fds() == before
    assert len(device.get_assigned_resources()) == 0


def test_unavailable_resource_undoes_the_others(rig: Rig) -> None:
    device = Device((*CONSTRAINTS, LegacyIrqConstraint(irq=2)))
    refuse(rig, device, ResourceError, "IRQ")


def test_more_messages_than_there_are_undo_the_others(rig: Rig) -> None:
    device = Device((*CONSTRAINTS, GenericIrqConstraint(size=1001)))
    refuse(rig, device, ResourceError, "MSIs: 0x3e9 .* can't be")


def test_overlap_on_the_bus_undoes_the_allocation(rig: Rig) -> None:
    class Greedy(Device):
        def get_trapped_io_resources(self) -> DeviceResources:
            return DeviceResources([PioAddressRange(PORT, 4), PioAddressRange(PORT, 2)])

    refuse(rig, Greedy(), DeviceOverlap, "overlaps")


def test_device_that_refuses_its_resources_undoes_them(rig: Rig) -> None:
    class Picky(Device):
        def assign_resources(
            self, resources: DeviceResources, interrupts: "Sequence[Interrupt]"
        ) -> None:
            super().assign_resources(resources, interrupts)
            if len(resources):
                raise ValueError("not these")

    refuse(rig, Picky(), ValueError, "not these")


def test_device_that_is_plugged_already_is_refused(rig: Rig) -> None:
    device = Device()
    rig.manager.add(device)
    with pytest.raises(ConfigError, match="Device is plugged in already"):
        rig.manager.add(device)
    assert rig.bus.device_at_port(PORT) is device


class Belled(Device):
    """With a doorbell, and a thread of its own."""

    own_thread = True

    def get_doorbells(self) -> Sequence[Doorbell]:
        return [Doorbell(base=PORT, size=1, on_ring=lambda: None, is_pio=True)]


@pytest.mark.parametrize(
    ("left", "what"),
    [(0, "a thread of its own"), (1, "1 interrupts"), (2, "doorbells")],
)
def test_too_few_descriptors_are_told_with_the_remedy(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, left: int, what: str
) -> None:
    before = open_fds()
    makes = iter([os.eventfd] * left)

    def eventfd(*flags: int) -> int:
        make = next(makes, None)
        if make is None:
            raise OSError(errno.EMFILE, "Too many open files")
        return make(*flags)

    monkeypatch.setattr(os, "eventfd", eventfd)
    text = rf"^Belled: {what}, .* Too many open files \(ulimit -n\)$"
    with pytest.raises(VmmError, match=text):
        rig.manager.add(Belled())
    assert rig.is_empty
    assert open_fds() == before


def test_refused_device_can_be_plugged_later(rig: Rig) -> None:
    first, second = Device(), Device()
    rig.manager.add(first)
    with pytest.raises(ResourceError):
        rig.manager.add(second)
    rig.manager.remove(first)
    rig.manager.add(second)


def test_closing_closes_the_lines_and_twice_is_fine(rig: Rig) -> None:
    before = open_fds()
    rig.manager.add(Device())
    rig.manager.close()
    rig.manager.close()
    assert open_fds() == before


@pytest.mark.parametrize(
    ("said", "shown"), [(42, ["42"]), (None, []), (b"x", ["b'x'"])]
)
def test_a_report_is_text_whatever_a_device_says(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, said: object, shown: list[str]
) -> None:
    device = Device()
    monkeypatch.setattr(device, "get_report", lambda: said)
    rig.manager.add(device)
    assert rig.manager.reports() == shown


# Another in its place


def test_a_device_is_replaced_in_the_order_of_all(rig: Rig) -> None:
    first, old, last, new = (
        Device([PioAddressConstraint.at(port, 4)])
        for port in (PORT, PORT + 4, PORT + 8, PORT + 4)
    )
    for device in (first, old, last):
        rig.manager.add(device)
    rig.manager.replace(old, new)
    assert rig.manager.plugged() == [first, new, last]
    assert rig.bus.device_at_port(PORT + 4) is new
    assert old.get_assigned_resources() == DeviceResources()


def test_what_can_not_take_the_place_leaves_it_as_it_was(rig: Rig) -> None:
    old, last = Device(()), Device()
    for device in (old, last):
        rig.manager.add(device)
    with pytest.raises(ResourceError):
        rig.manager.replace(old, Device())
    assert rig.manager.plugged() == [old, last]
