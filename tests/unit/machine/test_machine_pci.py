"""Pci: a machine's bus in the place of the ports that say there is none."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import pytest
from support.device_rig import Device, Rig
from support.pci_rig import RAM_SIZE
from support.plain_ram import PlainRam
from support.serial_rig import CountingTrigger

from vmm.boot.layout import PCI_ECAM, PCI_IO, ram_ranges
from vmm.devices.errors import NoDevice
from vmm.devices.pc.pci_config_ports import CONFIG_ADDRESS, PciConfigPorts
from vmm.devices.pci.bar import Bar, BarKind
from vmm.devices.pci.device import PciDevice
from vmm.devices.pci.reg import PCI_BASE_ADDRESS_0, PCI_COMMAND, PCI_COMMAND_IO
from vmm.devices.resources import MmioAddressConstraint, PciMsixIrqConstraint
from vmm.devices.state import State
from vmm.errors import ConfigError
from vmm.event_loop import EventLoop
from vmm.machine.pci import Pci
from vmm.machine.saved_devices import restore_devices, save_devices

if TYPE_CHECKING:
    from vmm.devices.trigger import MsiInterrupt

pytest_plugins = ("support.loop_fixtures",)


class Ports(PciDevice):
    vendor_id, device_id = 0x1234, 1
    bars = (Bar(0, 16, BarKind.IO),)


@pytest.fixture
def rig(loop: EventLoop) -> Iterator[Rig]:
    rig = Rig(loop)
    yield rig
    rig.manager.close()


@pytest.fixture
def ports(rig: Rig) -> PciConfigPorts:
    ports = PciConfigPorts(CountingTrigger())
    for device in (Device(()), ports, Device(())):
        rig.manager.add(device)
    return ports


@pytest.fixture
def pci(rig: Rig, ports: PciConfigPorts) -> Pci:
    return Pci(rig.manager, ports, PlainRam(RAM_SIZE), ram_ranges(128 << 20))


def write_config(rig: Rig, slot: int, register: int, value: int) -> None:
    for port, word in (
        (CONFIG_ADDRESS, 1 << 31 | slot << 11 | register),
        (CONFIG_ADDRESS + 4, value),
    ):
        rig.bus.pio_write(port, memoryview(word.to_bytes(4, "little")))


def place(rig: Rig, slot: int, port: int) -> None:
    write_config(rig, slot, PCI_COMMAND, 0)
    write_config(rig, slot, PCI_BASE_ADDRESS_0, port)
    write_config(rig, slot, PCI_COMMAND, PCI_COMMAND_IO)


def test_the_bridge_is_where_the_ports_were(rig: Rig, pci: Pci) -> None:
    bridge = rig.manager.plugged()[1]
    assert bridge is pci.bus.devices[0]
    assert rig.bus.device_at_port(CONFIG_ADDRESS) is bridge
    assert rig.bus.device_at_address(PCI_ECAM.guest_addr) is bridge
    assert rig.manager.pci is not None
    assert rig.manager.pci.irq == 11


def test_a_bridge_without_its_addresses_is_refused(
    rig: Rig, ports: PciConfigPorts
) -> None:
    at = MmioAddressConstraint.at(PCI_ECAM.guest_addr + 0x1000, 0x1000)
    rig.manager.add(Device([at]))
    with pytest.raises(ConfigError, match=r"^pci: the host bridge has no place: addr"):
        Pci(rig.manager, ports, PlainRam(RAM_SIZE), ram_ranges(128 << 20))
    assert rig.bus.device_at_port(CONFIG_ADDRESS) is ports
    assert rig.manager.pci is None


def test_an_unplugged_device_leaves_slot_and_ports(rig: Rig, pci: Pci) -> None:
    device, other = Ports(), Ports()
    pci.plug(device)
    assert device.get_assigned_resources().get_pio_address_ranges() == [(PCI_IO[0], 16)]
    pci.unplug(device)
    with pytest.raises(NoDevice):
        pci.unplug(device)
    pci.plug(other)
    assert other.slot == 1
    assert other.get_assigned_resources().get_pio_address_ranges() == [(PCI_IO[0], 16)]


def test_devices_that_have_swapped_their_ports_are_put_back(rig: Rig, pci: Pci) -> None:
    first, second = Ports(), Ports()
    for device in (first, second):
        pci.plug(device)
    rig.power_on()
    place(rig, 1, 0xC000)
    place(rig, 2, 0xD000)
    saved = save_devices(rig.manager)
    write_config(rig, 1, PCI_COMMAND, 0)
    place(rig, 2, 0xC000)
    place(rig, 1, 0xD000)
    assert rig.bus.device_at_port(0xC000) is second
    restore_devices(rig.manager, saved)
    assert rig.bus.device_at_port(0xC000) is first
    assert rig.bus.device_at_port(0xD000) is second


@pytest.mark.parametrize("is_clone", [True, False], ids=["clone", "put back"])
def test_who_was_first_at_a_place_is_there_again(
    rig: Rig, pci: Pci, is_clone: bool
) -> None:
    """Whatever the order of slots."""
    first, second = Ports(), Ports()
    for device in (first, second):
        pci.plug(device)
    rig.power_on()
    place(rig, 2, 0xD000)
    place(rig, 1, 0xD000)
    assert rig.bus.device_at_port(0xD000) is second
    saved = save_devices(rig.manager)
    if is_clone:
        rig.manager.reset()
    else:
        place(rig, 2, 0xC000)
        assert rig.bus.device_at_port(0xD000) is first
    restore_devices(rig.manager, saved)
    assert rig.bus.device_at_port(0xD000) is second
    assert save_devices(rig.manager) == saved
    place(rig, 2, 0xC000)
    assert rig.bus.device_at_port(0xD000) is first


class Routed(Device):
    """Routes all of its messages when it is restored."""

    def restore(self, state: State | None) -> None:
        for at, interrupt in enumerate(self.interrupts):
            cast("MsiInterrupt", interrupt).route(0xFEE0_0000, at)


def test_what_a_restore_routes_is_one_call(rig: Rig) -> None:
    for _ in range(2):
        rig.manager.add(Routed([PciMsixIrqConstraint(size=8)]))
    rig.power_on()
    restore_devices(rig.manager, save_devices(rig.manager))
    assert len(rig.vm.tables) == 1
    assert len(rig.vm.irqfds) == 16
