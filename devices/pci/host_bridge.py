"""PciHostBridge: the bridge of a PC, by whose ports and window its PCI bus is set up.

Sources: PCI Local Bus Specification 3.0, section 3.2.2.3.2; PCI Express Base
Specification 3.0, section 7.2.2; Intel 82371SB (PIIX3) for the reset control.
"""

from collections.abc import Sequence
from typing import Annotated, Final

from ..pc.pci_config_ports import (
    CONFIG_ADDRESS,
    PCI_CONFIG_SIZE,
    RESET_CONTROL_OFFSET,
)
from ..pc.reset_control import ResetControl, ResetControlState
from ..resources import (
    DeviceResources,
    MmioAddressConstraint,
    PioAddressConstraint,
    ResourceConstraint,
)
from ..state import State
from ..trigger import Trigger
from .bus import PciBus
from .device import PciDevice

ECAM_BUS_SIZE: Final = 1 << 20
"""What the window has for each bus, of which there is one."""
CONFIG_DATA_OFFSET: Final = 4
CONFIG_ENABLE: Final = 1 << 31
CONFIG_ADDRESS_MASK: Final = 0x80FF_FFFC

# Known to pci.ids, and free of workarounds in kernels.
_VENDOR_REDHAT: Final = 0x1B36
_DEVICE_HOST_BRIDGE: Final = 0x0008
_CLASS_HOST_BRIDGE: Final = 0x060000


class PciHostBridgeState(State):
    """CONFIG_ADDRESS and the reset control as written."""

    address: Annotated[int, range(0, 1 << 32, 4)]
    reset_control: ResetControlState

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(not self.address & ~CONFIG_ADDRESS_MASK, "address: no such bits")


class PciHostBridge(PciDevice):
    """0xCF8 to 0xCFF, a window `ecam_base` of 1 MiB unless None, and slot 0 of `bus`.

    The byte at 0xCF9 is the reset control, which `reset` is the line of.
    """

    vendor_id = _VENDOR_REDHAT
    device_id = _DEVICE_HOST_BRIDGE
    class_code = _CLASS_HOST_BRIDGE
    slot = 0

    def __init__(self, bus: PciBus, reset: Trigger, ecam_base: int | None) -> None:
        super().__init__()
        self._pci = bus
        self._ecam_base = ecam_base
        self._reset_control = ResetControl(reset)
        self._address = 0
        bus.attach(self)

    def get_author_device(self) -> object:
        """Itself, or whose registers in configuration space have raised."""
        failed = self._pci.failed
        return self if failed in (None, self) else failed.get_author_device()

    def get_resource_constraints(self) -> Sequence[ResourceConstraint]:
        ports = PioAddressConstraint.at(CONFIG_ADDRESS, PCI_CONFIG_SIZE)
        if self._ecam_base is None:
            return [ports]
        return [ports, MmioAddressConstraint.at(self._ecam_base, ECAM_BUS_SIZE)]

    def get_trapped_io_resources(self) -> DeviceResources:
        """All that it has: it has no BAR."""
        return self.get_assigned_resources()

    def read(self, base: int, offset: int, data: memoryview) -> None:
        slot, function, register = _ecam_place(offset)
        self._pci.read_config(slot, function, register, data)

    def write(self, base: int, offset: int, data: memoryview) -> None:
        slot, function, register = _ecam_place(offset)
        self._pci.write_config(slot, function, register, data)

    def pio_read(self, base: int, offset: int, data: memoryview) -> None:
        if offset >= CONFIG_DATA_OFFSET and self._is_on_bus():
            slot, function, register = self._place(offset)
            self._pci.read_config(slot, function, register, data)
            return
        data[:] = b"\xff" * len(data)
        if offset == 0 and len(data) == 4:
            data[:] = self._address.to_bytes(4, "little")
        elif offset == RESET_CONTROL_OFFSET and len(data) == 1:
            data[0] = self._reset_control.read()

    def pio_write(self, base: int, offset: int, data: memoryview) -> None:
        if offset >= CONFIG_DATA_OFFSET and self._is_on_bus():
            slot, function, register = self._place(offset)
            self._pci.write_config(slot, function, register, data)
        elif offset == 0 and len(data) == 4:
            self._address = int.from_bytes(data, "little") & CONFIG_ADDRESS_MASK
        elif offset == RESET_CONTROL_OFFSET and len(data) == 1:
            self._reset_control.write(data[0])

    def _is_on_bus(self) -> bool:
        return self._address & CONFIG_ENABLE != 0 and not self._address >> 16 & 0xFF

    def _place(self, offset: int) -> tuple[int, int, int]:
        """Slot, function and register that CONFIG_ADDRESS and a data port select."""
        address = self._address
        register = (address & 0xFC) + offset - CONFIG_DATA_OFFSET
        return address >> 11 & 0x1F, address >> 8 & 7, register

    def reset_device(self) -> None:
        self._address = 0
        self._reset_control.reset()

    def device_state(self) -> PciHostBridgeState:
        """What was written to the ports."""
        return PciHostBridgeState(self._address, self._reset_control.state())

    def restore_device(self, state: State) -> None:
        kept = PciHostBridgeState.of(state)
        self._address = kept.address
        self._reset_control.restore(kept.reset_control)


def _ecam_place(offset: int) -> tuple[int, int, int]:
    """Slot, function and register at an offset of the window's."""
    return offset >> 15 & 0x1F, offset >> 12 & 7, offset & 0xFFF
