"""INTx: a level that is held until the device lets go, and that two bits hide."""

import pytest
from support.pci_rig import Function, PciRig, Scratch

from vmm.devices.pci.device import PciDevice
from vmm.devices.pci.reg import (
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_COMMAND_INTX_DISABLE,
    PCI_COMMAND_MASTER,
    PCI_MSIX_FLAGS,
    PCI_STATUS,
    PCI_STATUS_INTERRUPT,
)
from vmm.devices.resources import LegacyIrqConstraint


@pytest.fixture
def device() -> Scratch:
    return Scratch()


@pytest.fixture
def function(device: Scratch) -> Function:
    return Function(PciRig(device), 1)


def is_asserted(function: Function) -> bool:
    return bool(function.get(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT)


def test_the_line_is_a_shared_level(device: Scratch, function: Function) -> None:
    constraints = device.get_resource_constraints()
    assert constraints[-1] == LegacyIrqConstraint(shared=True, level=True)


def test_an_interrupt_is_held_until_the_device_lets_go(
    device: Scratch, function: Function
) -> None:
    device.interrupt()
    assert device.line.is_high
    assert is_asserted(function)
    device.set_intx(False)
    assert not device.line.is_high
    assert not is_asserted(function)


def test_interrupt_disable_hides_it_from_the_line_not_from_status(
    device: Scratch, function: Function
) -> None:
    device.set_intx(True)
    function.command(PCI_COMMAND_INTX_DISABLE)
    assert not device.line.is_high
    assert is_asserted(function)
    function.command(0)
    assert device.line.is_high


@pytest.mark.parametrize(
    ("cap_id", "enable"), [(PCI_CAP_ID_MSIX, 0x8000), (PCI_CAP_ID_MSI, 1)]
)
def test_who_takes_messages_has_no_line(
    device: Scratch, function: Function, cap_id: int, enable: int
) -> None:
    function.command(PCI_COMMAND_MASTER)
    control = function.capabilities()[cap_id] + PCI_MSIX_FLAGS
    device.set_intx(True)
    function.set(control, enable, 2)
    assert not device.line.is_high
    device.interrupt()
    assert not device.line.is_high
    function.set(control, 0, 2)
    assert device.line.is_high


def test_status_is_read_only(device: Scratch, function: Function) -> None:
    device.set_intx(True)
    before = function.get(PCI_STATUS, 2)
    function.set(PCI_STATUS, 0xFFFF, 2)
    function.set(PCI_STATUS, 0, 2)
    assert function.get(PCI_STATUS, 2) == before


def test_reset_lets_go(device: Scratch, function: Function) -> None:
    device.interrupt()
    device.reset()
    assert not device.line.is_high
    assert not is_asserted(function)


def test_a_device_without_a_line_is_silent() -> None:
    class Mute(PciDevice):
        vendor_id = 0x1234
        device_id = 3

    device = Mute()
    function = Function(PciRig(device), 1)
    device.interrupt()
    device.set_intx(True)
    assert not is_asserted(function)
    assert device.interrupts == []
