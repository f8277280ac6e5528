"""The ring in which KVM collects writes that make no exit.

Source: KVM API 4.116, KVM_(UN)REGISTER_COALESCED_MMIO; struct
kvm_coalesced_mmio_ring in <linux/kvm.h>.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final

_ENTRY: Final = Struct("<QII8s")  # phys_addr, len, pio, data
_RING_HEADER: Final = 8
_DATA: Final = 16
PAGE_SIZE: Final = 4096
ENTRIES: Final = (PAGE_SIZE - _RING_HEADER) // _ENTRY.size


class CoalescedRing:
    """Read by one thread only: the ring is the VM's, and has one reader.

    `ends` are the indices of the first entry and of the one behind the last: KVM
    has collected something while they differ.
    """

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self.ends = page[:_RING_HEADER].cast("I")
        self.taken = 0

    def close(self) -> None:
        """Let go of the page."""
        self.ends.release()
        self._page.release()

    def take(self) -> Iterator[tuple[bool, int, memoryview]]:
        """Each write, the oldest first: whether to a port, address, data.

        It is off the ring when the next one is asked for.
        """
        ends = self.ends
        while ends[0] != ends[1]:
            at = _RING_HEADER + ends[0] * _ENTRY.size
            address, size, is_pio, _ = _ENTRY.unpack_from(self._page, at)
            yield bool(is_pio), address, self._page[at + _DATA : at + _DATA + size]
            ends[0] = (ends[0] + 1) % ENTRIES
            self.taken += 1
