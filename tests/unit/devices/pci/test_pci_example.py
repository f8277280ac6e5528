"""The device of examples/, driven as its driver drives it."""

from typing import Any, Final

import pytest
from support.pci_example import DEVICE, EXAMPLES, summer
from support.pci_rig import Function, PciRig

from vmm.devices.pci.device import PciDevice
from vmm.devices.pci.reg import (
    PCI_BASE_ADDRESS_0,
    PCI_CAP_ID_MSIX,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_MSIX_FLAGS,
)

README: Final = EXAMPLES.parent / "README.md"
SOURCE, TARGET, SIZE, STATUS = 0, 8, 16, 20
MOST = 1 << 20


class Driver:
    """Takes vector 0 of MSI-X, and knows the registers."""

    def __init__(self, device: PciDevice) -> None:
        self.rig = PciRig(device)
        self.device = device
        function = Function(self.rig, 1)
        function.command(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
        self.base = function.get(PCI_BASE_ADDRESS_0)
        table = function.get(PCI_BASE_ADDRESS_0 + 4)
        self.rig.store(table, 0xFEE0_0000)
        self.rig.store(table + 12, 0)
        control = function.capabilities()[PCI_CAP_ID_MSIX] + PCI_MSIX_FLAGS
        function.set(control, 0x8000, 2)

    def sum_up(self, source: int, target: int, size: int) -> int:
        """The status after that."""
        self.rig.store(self.base + SOURCE, source, 8)
        self.rig.store(self.base + TARGET, target, 8)
        self.rig.store(self.base + SIZE, size)
        self.rig.store(self.base + STATUS, 0)
        return self.rig.load(self.base + STATUS)

    @property
    def interrupts(self) -> int:
        line: Any = self.device.interrupts[0]
        return int(line.edges)


@pytest.fixture
def driver() -> Driver:
    return Driver(summer())


def test_it_sums_up_memory_and_interrupts(driver: Driver) -> None:
    driver.rig.ram.write(0x1000, b"123456789")
    assert driver.sum_up(0x1000, 0x2000, 9) == 1
    assert driver.rig.ram.read(0x2000, 4) == (0xCBF4_3926).to_bytes(4, "little")
    assert driver.interrupts == 1


@pytest.mark.parametrize(
    ("source", "target", "size"),
    [(1 << 63, 0, 4), (0, 1 << 63, 4), (0xFFFF, 0, 2), (0, 0, MOST + 1)],
)
def test_what_it_can_not_reach_is_an_error(
    driver: Driver, source: int, target: int, size: int
) -> None:
    assert driver.sum_up(source, target, size) == 2
    assert driver.rig.ram.data == bytes(len(driver.rig.ram.data))
    assert driver.interrupts == 1


def test_accesses_beyond_its_registers_change_nothing(driver: Driver) -> None:
    before = driver.device.state()
    driver.rig.store(driver.base + SIZE, 0, 8)  # the status is in its upper half
    driver.rig.store(driver.base + 0x18, 1)
    driver.rig.store(driver.base + 0x14 + 2, 1, 4)
    assert driver.rig.load(driver.base + 0x18, 8) == 0
    assert driver.device.state() == before
    assert driver.interrupts == 0


def test_it_goes_on_from_its_state(driver: Driver) -> None:
    driver.sum_up(0, 0x100, 16)
    copy = Driver(summer())
    copy.device.restore(driver.device.state())
    assert copy.rig.load(copy.base + STATUS) == 1
    assert copy.rig.load(copy.base + SIZE) == 16
    copy.device.reset()
    driver.device.reset()
    assert copy.device.state() == driver.device.state()


def test_the_readme_has_the_same_device() -> None:
    code = DEVICE.read_text().partition('"""\n\n')[2]
    assert f"```python\n{code}```" in README.read_text()
