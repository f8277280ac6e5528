"""SplitRing: descriptors, and one ring for each direction. VIRTIO 1.3, 2.7."""

from collections.abc import Sequence
from itertools import count
from operator import eq
from struct import Struct
from typing import Final

from ..errors import BrokenRing
from ..guest_ram import GuestRam, barrier
from .chain import (
    DESCRIPTOR_SIZE,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    Chain,
    Descriptor,
)
from .features import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC
from .ring import MOST_INDIRECT, indirect_table, ring_view

VIRTQ_AVAIL_F_NO_INTERRUPT: Final = 1
VIRTQ_USED_F_NO_NOTIFY: Final = 1

_UNPACK: Final = Struct("<QIHH").unpack_from  # addr, len, flags, next
# In 16-bit words of the available and the used ring
_FLAGS, _IDX, _RING = 0, 1, 2


class SplitRing:
    """A Ring of `size` entries, a power of two.

    Indices run free over 16 bits. What both sides look at is stored as whole items of
    memoryviews, and in program order, which x86 keeps but for a load after a store;
    a `barrier` is where that matters. Raises BrokenRing for areas that can't be.
    """

    def __init__(
        self,
        ram: GuestRam,
        size: int,
        areas: tuple[int, int, int],
        features: int,
        start: tuple[int, int] | None = None,
    ) -> None:
        if size & (size - 1):
            raise BrokenRing(f"a split ring of {size} entries: no power of two")
        desc, driver, device = areas
        self._ram = ram
        self._size = size
        self._mask = size - 1
        self._table = ring_view(ram, "descriptor table", desc, 16 * size, 16)
        available = ring_view(ram, "available ring", driver, 6 + 2 * size, 2)
        self._available = available.cast("H")
        used = ring_view(ram, "used ring", device, 6 + 8 * size, 4)
        self._used = used.cast("H")
        self._elements = used[4 : 4 + 8 * size].cast("I")  # id, len
        self._used_event = _RING + size
        self._avail_event = _RING + 4 * size
        self._has_indirect = bool(features >> VIRTIO_F_INDIRECT_DESC & 1)
        self._has_event_idx = bool(features >> VIRTIO_F_EVENT_IDX & 1)
        self._next_avail, self._next_used = start or (0, 0)
        self._seen_avail = self._next_avail
        self.unseen = 0

    def position(self) -> tuple[int, int]:
        return self._next_avail, self._next_used

    def position_before(self, heads: Sequence[int]) -> tuple[int, int]:
        first = self._next_avail - len(heads)
        taken = (self._available[_RING + (first + at & self._mask)] for at in count())
        if all(map(eq, heads, taken)):
            return first & 0xFFFF, self._next_used
        return self.position()

    def take(self) -> Chain | None:
        at = self._next_avail
        if at == self._seen_avail and not self._has_more():
            return None
        self._next_avail = at + 1 & 0xFFFF
        head = self._available[_RING + (at & self._mask)]
        return Chain(head, 1, self._follow(head), self._ram)

    def _has_more(self) -> bool:
        seen = self._seen_avail = self._available[_IDX]
        count = seen - self._next_avail & 0xFFFF
        if count > self._size:
            raise BrokenRing(
                f"the available index is {count} ahead in a ring of {self._size}"
            )
        return count > 0

    def _follow(self, at: int) -> list[Descriptor]:
        """The buffers of the chain that begins with descriptor `at`."""
        table: bytes | memoryview = self._table
        entries = most = self._size
        buffers: list[Descriptor] = []
        while True:
            if at >= entries:
                raise BrokenRing(f"descriptor {at} in a table of {entries}")
            addr, length, flags, following = _UNPACK(table, at * DESCRIPTOR_SIZE)
            if flags & VIRTQ_DESC_F_INDIRECT:
                if table is not self._table:
                    raise BrokenRing("an indirect descriptor in an indirect table")
                most = max(most, MOST_INDIRECT)
                table = self._indirect(addr, length, flags, most)
                entries, at = length // DESCRIPTOR_SIZE, 0
                continue
            buffers.append((addr, length, flags))
            if not flags & VIRTQ_DESC_F_NEXT:
                return buffers
            if len(buffers) == most:
                raise BrokenRing(f"a chain of more than {most} descriptors")
            at = following

    def _indirect(self, addr: int, size: int, flags: int, most: int) -> bytes:
        if not self._has_indirect:
            raise BrokenRing("an indirect descriptor, which wasn't negotiated")
        if flags & VIRTQ_DESC_F_NEXT:
            raise BrokenRing("an indirect descriptor that has a next one")
        return indirect_table(self._ram, addr, size, most)

    def put(self, head: int, slots: int, written: int) -> None:
        at = self._next_used
        element = 2 * (at & self._mask)
        self._elements[element] = head
        self._elements[element + 1] = written
        self._next_used = at + 1 & 0xFFFF
        self.unseen += 1

    def publish(self) -> None:
        self._used[_IDX] = self._next_used

    def wants_interrupt(self) -> bool:
        count, self.unseen = self.unseen, 0
        if not count:
            return False
        barrier()  # or we might miss that the driver has just begun to wait for it
        if not self._has_event_idx:
            return not self._available[_FLAGS] & VIRTQ_AVAIL_F_NO_INTERRUPT
        event = self._available[self._used_event]
        return (self._next_used - event - 1 & 0xFFFF) < count

    def disable_kicks(self) -> None:
        if not self._has_event_idx:
            self._used[_FLAGS] = VIRTQ_USED_F_NO_NOTIFY
        # else the event index stays behind, where no driver will pass it

    def enable_kicks(self) -> bool:
        if self._has_event_idx:
            self._used[self._avail_event] = self._next_avail
        else:
            self._used[_FLAGS] = 0
        barrier()  # or we might miss what came before the driver saw that
        return self._available[_IDX] != self._next_avail
