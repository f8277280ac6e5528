"""Pci: a machine's PCI bus, and how devices come into it."""

from typing import TYPE_CHECKING

from ..boot.layout import PCI_ECAM, PCI_IO, PCI_MEM32, pci_mem64
from ..boot.pci_tables import PciTables
from ..devices.errors import DeviceError, ResourceError
from ..devices.pci.bus import PciBus
from ..devices.pci.host_bridge import PciHostBridge
from ..devices.pci.windows import PciWindows
from ..errors import ConfigError
from .kvm_wiring import class_name

if TYPE_CHECKING:
    from ..devices.guest_ram import GuestRam
    from ..devices.pc.pci_config_ports import PciConfigPorts
    from ..devices.pci.device import PciDevice
    from ..memory import Range
    from .device_manager import DeviceManager


class Pci:
    """It is there from before power-on, as all that is in it: there is no hotplug."""

    def __init__(
        self,
        devices: "DeviceManager",
        ports: "PciConfigPorts",
        ram: "GuestRam",
        ranges: "list[Range]",
    ) -> None:
        """Take the place of `ports`, by which a machine without a bus says so.

        `ranges` are where RAM is. Raises ConfigError where somebody has the addresses.
        """
        windows = PciWindows(PCI_IO, PCI_MEM32, pci_mem64(ranges))
        self._devices = devices
        self.bus = PciBus(windows, devices.remap, ram)
        bridge = PciHostBridge(self.bus, ports.reset_line, PCI_ECAM.guest_addr)
        try:
            devices.replace(ports, bridge)
        except DeviceError as error:
            raise ConfigError(f"pci: the host bridge has no place: {error}") from None
        devices.pci = PciTables(windows, devices.shared_level_irq)

    def plug(self, device: "PciDevice") -> None:
        """Into its slot, or the first that is free.

        Raises DeviceOverlap, Exhausted, InvalidDevice or InvalidRange, with the name of
        the device; then nothing has changed.
        """
        self.bus.attach(device)
        try:
            self._devices.add(device)
        except BaseException as error:
            self.bus.detach(device)
            if isinstance(error, ResourceError):
                raise type(error)(f"{class_name(device)}: {error}") from None
            raise

    def unplug(self, device: "PciDevice") -> None:
        """Raises NoDevice if it isn't plugged in."""
        self._devices.remove(device)
        self.bus.detach(device)
