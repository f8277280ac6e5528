"""Msi: the capability by which a driver takes one message, or up to 32 in a row.

Source: PCI Local Bus Specification 3.0, section 6.8.1.
"""

from typing import Final

from .config_space import Capability
from .messages import Message, Messages
from .reg import (
    PCI_CAP_ID_MSI,
    PCI_MSI_ADDRESS_LO,
    PCI_MSI_DATA_64,
    PCI_MSI_FLAGS,
    PCI_MSI_FLAGS_64BIT,
    PCI_MSI_FLAGS_ENABLE,
    PCI_MSI_FLAGS_MASKBIT,
    PCI_MSI_FLAGS_QMASK_SHIFT,
    PCI_MSI_FLAGS_QSIZE,
    PCI_MSI_FLAGS_QSIZE_SHIFT,
    PCI_MSI_MASK_64,
    PCI_MSI_PENDING_64,
    PCI_MSI_SIZEOF,
)

MOST_MSI_VECTORS: Final = 32
_ADDRESS_BITS: Final = 0xFFFF_FFFF_FFFF_FFFC
_BODY: Final = 2  # what precedes the registers that `Capability` calls the body


class Msi(Capability):
    """With 64-bit addresses, and a mask bit for each of `count`, a power of two.

    What is raised while its vector is masked, or the function isn't bus master, is
    pending, and then sent; what is raised while MSI is off is lost.
    """

    def __init__(self, count: int) -> None:
        flags = PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT
        flags |= (count.bit_length() - 1) << PCI_MSI_FLAGS_QMASK_SHIFT
        size = PCI_MSI_SIZEOF - _BODY
        mask = (1 << count) - 1
        writable = _registers(
            PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE, _ADDRESS_BITS, 0xFFFF, mask
        )
        owned = bytes(PCI_MSI_PENDING_64 - _BODY) + mask.to_bytes(4, "little")
        body = flags.to_bytes(2, "little").ljust(size, b"\0")
        super().__init__(PCI_CAP_ID_MSI, body, writable, owned)
        self.count = count
        self.messages = Messages(count, self._show_pending)
        self.is_enabled = False
        """Whether the driver takes messages, so that no line is raised."""

    def fire(self, vector: int) -> None:
        """Raise one, 0..count - 1: one of those few that the driver has enabled."""
        if self.is_enabled:
            self.messages.fire(vector % self._enabled)

    def after_write(self, at: int, size: int) -> None:
        self.follow()

    def restore(self) -> None:
        """Go on from the registers, configuration space being restored."""
        pending = self.get(PCI_MSI_PENDING_64, 4)
        self.messages.pending = [bool(pending >> at & 1) for at in range(self.count)]
        self.messages.forget()
        self.follow()

    def follow(self) -> None:
        """Do as configuration space says, which has changed."""
        self.is_enabled = bool(self.get(PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_ENABLE)
        if not self.is_enabled:
            self.messages.drop_pending()
        self.messages.set_all(map(self._message, range(self.count)))

    @property
    def _enabled(self) -> int:
        """How many of `count` the driver has enabled."""
        order = self.get(PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_QSIZE
        return min(1 << (order >> PCI_MSI_FLAGS_QSIZE_SHIFT), self.count)

    def _message(self, vector: int) -> Message | None:
        is_masked = self.get(PCI_MSI_MASK_64, 4) >> vector & 1
        may_send = self.config.is_bus_master and not is_masked
        if not self.is_enabled or not may_send or vector >= self._enabled:
            return None
        data = self.get(PCI_MSI_DATA_64, 2) & -self._enabled
        return self.get(PCI_MSI_ADDRESS_LO, 8), data | vector

    def _show_pending(self) -> None:
        pending = sum(
            1 << at for at, is_set in enumerate(self.messages.pending) if is_set
        )
        self.set(PCI_MSI_PENDING_64, 4, pending)


def _registers(flags: int, address: int, data: int, mask: int) -> bytes:
    """Those of the capability, from its flags on."""
    registers = flags.to_bytes(2, "little") + address.to_bytes(8, "little")
    registers += data.to_bytes(4, "little") + mask.to_bytes(4, "little")
    return registers
