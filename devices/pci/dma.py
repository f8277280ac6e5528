"""Dma: guest memory as one PCI function reaches it."""

from typing import TYPE_CHECKING

from ..errors import NotRam

if TYPE_CHECKING:
    from ..guest_ram import GuestRam
    from .config_space import ConfigSpace


class Dma:
    """What a function reads and writes by itself, while it may be bus master.

    Addresses come from the guest: where there isn't RAM, or the guest hasn't set the
    bus master bit of COMMAND, reads give ones and writes go nowhere, as after a master
    abort; nothing raises. A size that the guest gives is the device's to bound. Safe to
    call from any thread.
    """

    def __init__(self, ram: "GuestRam", config: "ConfigSpace") -> None:
        self.ram = ram
        self._config = config

    def view(self, address: int, size: int) -> memoryview | None:
        """`size` bytes of RAM in place, as GuestRam gives them; None: can't be reached.

        One that is kept outlives the permission to use it: ask anew for each transfer.
        """
        if not self._config.is_bus_master:
            return None
        try:
            return self.ram.view(address, size)
        except NotRam:
            return None

    def read(self, address: int, size: int) -> bytes:
        """A copy of `size` bytes; all ones where they can't be reached."""
        view = self.view(address, size)
        return b"\xff" * size if view is None else bytes(view)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> bool:
        """Copy `data` into RAM; whether it got there."""
        view = self.view(address, len(data))
        if view is None:
            return False
        view[:] = data
        return True
