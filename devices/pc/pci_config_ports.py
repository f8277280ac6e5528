"""PciConfigPorts: 0xCF8 to 0xCFF where there is no PCI bus, but the reset control.

A probe writes CONFIG_ADDRESS and reads it back (pci_check_type1 and pci_check_type2 in
arch/x86/pci/direct.c of Linux). All ones are neither answer it hopes for, and the
class, vendor and type of no device, where a kernel looks without asking before
(arch/x86/kernel/early-quirks.c).

Source: PCI Local Bus Specification 3.0, section 3.2.2.3.2; Intel 82371SB (PIIX3), where
the byte at 0xCF9 lies within CONFIG_ADDRESS, which takes accesses of four bytes only.
"""

from collections.abc import Sequence
from typing import Final

from ..device_io import DeviceIo
from ..resources import PioAddressConstraint, ResourceConstraint
from ..state import State
from ..trigger import Trigger
from .reset_control import ResetControl, ResetControlState

CONFIG_ADDRESS: Final = 0xCF8
PCI_CONFIG_SIZE: Final = 8
RESET_CONTROL_OFFSET: Final = 1


class PciConfigPorts(DeviceIo):
    """Reads give all ones, writes go nowhere; a byte at 0xCF9 is the reset control."""

    def __init__(self, reset: Trigger) -> None:
        self.reset_line = reset
        self._reset_control = ResetControl(reset)

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        return [PioAddressConstraint.at(CONFIG_ADDRESS, PCI_CONFIG_SIZE)]

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        data[:] = b"\xff" * len(data)
        if offset == RESET_CONTROL_OFFSET and len(data) == 1:
            data[0] = self._reset_control.read()

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        if offset == RESET_CONTROL_OFFSET and len(data) == 1:
            self._reset_control.write(data[0])

    def reset(self) -> None:
        self._reset_control.reset()

    def state(self) -> ResetControlState:
        return self._reset_control.state()

    def restore(self, state: State | None) -> None:
        self._reset_control.restore(state)
