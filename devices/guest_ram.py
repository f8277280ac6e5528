"""GuestRam: what a device that does DMA is given of the guest's RAM."""

import threading
from typing import Final, Protocol

_FENCE: Final = threading.Lock()


class GuestRam(Protocol):
    """The guest's RAM by guest physical address; every access is checked.

    Addresses and sizes come from the guest, so that a device expects NotRam where one
    isn't wholly RAM. Safe to call from any thread; whoever shares memory with the guest
    shares it with its CPUs. What both look at while either writes is stored whole only
    as an item of a view's, `view.cast("H")[0] = 1`: struct.pack_into and slices write
    byte by byte.
    """

    def view(self, guest_addr: int, size: int, /) -> memoryview:
        """`size` bytes of RAM, to be read and written in place.

        It stays valid: over a reset, after which it shows the next boot's RAM, which is
        zero; and after the machine is closed, when it shows zeros that nobody shares,
        until it is released. In a forked child it shows zeros, too.
        """

    def read(self, guest_addr: int, size: int, /) -> bytes:
        """A copy of `size` bytes."""

    def write(self, guest_addr: int, data: bytes | bytearray | memoryview, /) -> None:
        """Copy `data` into RAM."""

    def discard(self, guest_addr: int, size: int, /) -> None:
        """Have the whole pages of that read as zero, which costs their host nothing."""


def barrier() -> None:
    """Have all CPUs see what was stored before, ere anything is loaded after.

    x86 lets a load overtake an earlier store (Intel SDM 3A, 9.2.3.4), but no locked
    instruction, which taking a lock is.
    """
    with _FENCE:
        pass
