"""The header of configuration space: what a function is, and what of it may change."""

from collections.abc import Set
from typing import Final, Protocol

from ..errors import InvalidDevice
from .bar import BarKind
from .config_space import ConfigSpace
from .msi import MOST_MSI_VECTORS
from .msix import MOST_MSIX_VECTORS
from .reg import (
    PCI_CACHE_LINE_SIZE,
    PCI_CLASS_PROG,
    PCI_COMMAND,
    PCI_COMMAND_INTX_DISABLE,
    PCI_COMMAND_IO,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_COMMAND_PARITY,
    PCI_COMMAND_SERR,
    PCI_DEVICE_ID,
    PCI_INTERRUPT_LINE,
    PCI_INTERRUPT_PIN,
    PCI_REVISION_ID,
    PCI_STATUS,
    PCI_STATUS_INTERRUPT,
    PCI_SUBSYSTEM_ID,
    PCI_SUBSYSTEM_VENDOR_ID,
    PCI_VENDOR_ID,
)

NO_IRQ: Final = 0xFF
"""In PCI_INTERRUPT_LINE: PCI Local Bus Specification 3.0, section 6.2.4."""
_INTA: Final = 1
_BITS: Final = {
    "vendor_id": 16,
    "device_id": 16,
    "class_code": 24,
    "revision": 8,
    "subsystem_vendor_id": 16,
    "subsystem_id": 16,
}


class Identity(Protocol):
    """What a device's author says of it; see PciDevice."""

    vendor_id: int
    device_id: int
    class_code: int
    revision: int
    subsystem_vendor_id: int
    subsystem_id: int
    msix_vectors: int
    msi_vectors: int
    uses_intx: bool


def check_identity(device: Identity) -> None:
    """Raises InvalidDevice for what can't be."""
    if not hasattr(device, "vendor_id") or not hasattr(device, "device_id"):
        raise InvalidDevice("it has no vendor_id or no device_id")
    for field, bits in _BITS.items():
        value = getattr(device, field)
        if not 0 <= value < 1 << bits:
            raise InvalidDevice(f"{field} is {value:#x}: it has {bits} bits")
    if not 0 <= device.msix_vectors <= MOST_MSIX_VECTORS:
        raise InvalidDevice(
            f"msix_vectors is {device.msix_vectors}: 0..{MOST_MSIX_VECTORS} are "
            "possible"
        )
    count = device.msi_vectors
    if not 0 <= count <= MOST_MSI_VECTORS or count & (count - 1):
        raise InvalidDevice(
            f"msi_vectors is {count}: 0, or a power of two up to {MOST_MSI_VECTORS}, "
            "is possible"
        )


def define_header(device: Identity, config: ConfigSpace, kinds: Set[BarKind]) -> None:
    """Define all but the BARs, of which there are those `kinds`."""
    command = PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR
    command |= BarKind.IO in kinds and PCI_COMMAND_IO
    command |= bool(kinds - {BarKind.IO}) and PCI_COMMAND_MEMORY
    command |= device.uses_intx and PCI_COMMAND_INTX_DISABLE
    define = config.define
    define(PCI_VENDOR_ID, 2, device.vendor_id)
    define(PCI_DEVICE_ID, 2, device.device_id)
    define(PCI_COMMAND, 2, 0, writable=command)
    define(PCI_STATUS, 2, 0, owned=device.uses_intx and PCI_STATUS_INTERRUPT)
    define(PCI_REVISION_ID, 1, device.revision)
    define(PCI_CLASS_PROG, 3, device.class_code)
    define(PCI_CACHE_LINE_SIZE, 1, 0, writable=0xFF)
    define(PCI_SUBSYSTEM_VENDOR_ID, 2, device.subsystem_vendor_id)
    define(PCI_SUBSYSTEM_ID, 2, device.subsystem_id)
    define(PCI_INTERRUPT_LINE, 1, NO_IRQ, writable=0xFF)
    define(PCI_INTERRUPT_PIN, 1, device.uses_intx and _INTA)
