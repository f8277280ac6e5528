"""PackedRing: one ring of descriptors for both directions. VIRTIO 1.3, 2.8."""

from collections.abc import Sequence
from struct import Struct, iter_unpack
from typing import Final

from ..errors import BrokenRing
from ..guest_ram import GuestRam, barrier
from .chain import (
    DESCRIPTOR_SIZE,
    VIRTQ_DESC_F_AVAIL,
    VIRTQ_DESC_F_INDIRECT,
    VIRTQ_DESC_F_NEXT,
    VIRTQ_DESC_F_USED,
    VIRTQ_DESC_F_WRITE,
    Chain,
    Descriptor,
)
from .features import VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC
from .ring import MOST_INDIRECT, indirect_table, ring_view

RING_EVENT_FLAGS_ENABLE: Final = 0
RING_EVENT_FLAGS_DISABLE: Final = 1
RING_EVENT_FLAGS_DESC: Final = 2

_DESCRIPTOR: Final = "<QIHH"  # addr, len, id, flags
_UNPACK: Final = Struct(_DESCRIPTOR).unpack_from
_LEN: Final = 2  # in 32-bit words of a descriptor
_ID, _FLAGS, _WORDS = 6, 7, 8  # in 16-bit words of one, and how many it has
_DESC, _EVENT_FLAGS = 0, 1  # in those of an event suppression structure
_WRAP: Final = 1 << 15  # of a position
_INDEX: Final = _WRAP - 1
_BOTH: Final = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED
_NOT_IN_TABLE: Final = VIRTQ_DESC_F_NEXT | VIRTQ_DESC_F_INDIRECT


class PackedRing:
    """A Ring of `size` entries, any number.

    A position is an index and, in bit 15, the wrap counter that goes with it, which is
    1 in the first round. The order of stores is as in a SplitRing.
    Raises BrokenRing for areas and positions that can't be.
    """

    def __init__(
        self,
        ram: GuestRam,
        size: int,
        areas: tuple[int, int, int],
        features: int,
        start: tuple[int, int] | None = None,
    ) -> None:
        desc, driver, device = areas
        self._ram = ram
        self._size = size
        self._ring = ring_view(ram, "descriptor ring", desc, 16 * size, 16)
        self._words = self._ring.cast("H")
        self._lengths = self._ring.cast("I")
        self._driver = ring_view(ram, "driver area", driver, 4, 4).cast("H")
        self._device = ring_view(ram, "device area", device, 4, 4).cast("H")
        self._has_indirect = bool(features >> VIRTIO_F_INDIRECT_DESC & 1)
        self._has_event_idx = bool(features >> VIRTIO_F_EVENT_IDX & 1)
        self._next_avail, self._next_used = start or (_WRAP, _WRAP)
        if not 0 <= self._in_use() <= size or not self._is_in_ring(*self.position()):
            raise BrokenRing(f"a packed ring of {size} entries can't stand there")
        self._unpublished: tuple[int, int] | None = None  # first flags of a batch
        self.unseen = 0

    def position(self) -> tuple[int, int]:
        return self._next_avail, self._next_used

    def position_before(self, heads: Sequence[int]) -> tuple[int, int]:
        try:
            is_there = self._has(heads)
        except BrokenRing:  # by who has written over them
            is_there = False
        return (self._next_used, self._next_used) if is_there else self.position()

    def _has(self, heads: Sequence[int]) -> bool:
        """Whether these chains are all that is between what was used and taken."""
        at = self._next_used
        for head in heads:
            found, slots, _ = self._follow(at & _INDEX)
            if found != head:
                return False
            at = self._after(at, slots)
        return at == self._next_avail

    def _is_in_ring(self, *positions: int) -> bool:
        return all(at & _INDEX < self._size for at in positions)

    def _in_use(self) -> int:
        """How many entries were taken and not put."""
        count = (self._next_avail & _INDEX) - (self._next_used & _INDEX)
        is_a_round_ahead = (self._next_avail ^ self._next_used) & _WRAP
        return count + self._size if is_a_round_ahead else count

    def _after(self, at: int, count: int) -> int:
        """The position `count` entries behind `at`."""
        index, wrap = (at & _INDEX) + count, at & _WRAP
        return index | wrap if index < self._size else index - self._size | wrap ^ _WRAP

    def _is_available(self) -> bool:
        at = self._next_avail
        flags = self._words[(at & _INDEX) * _WORDS + _FLAGS]
        ours = VIRTQ_DESC_F_AVAIL if at & _WRAP else VIRTQ_DESC_F_USED
        return flags & _BOTH == ours

    def take(self) -> Chain | None:
        if not self._is_available():
            return None
        head, slots, buffers = self._follow(self._next_avail & _INDEX)
        if self._in_use() + slots > self._size:
            raise BrokenRing(f"more is in flight than the ring has, {self._size}")
        self._next_avail = self._after(self._next_avail, slots)
        return Chain(head, slots, buffers, self._ram)

    def _follow(self, at: int) -> tuple[int, int, list[Descriptor]]:
        """Buffer ID, how many descriptors of the ring, and buffers of the chain."""
        buffers: list[Descriptor] = []
        for slots in range(1, self._size + 1):
            addr, length, head, flags = _UNPACK(self._ring, at * DESCRIPTOR_SIZE)
            if flags & VIRTQ_DESC_F_INDIRECT:
                if slots > 1 or flags & VIRTQ_DESC_F_NEXT:
                    raise BrokenRing("an indirect descriptor that is one of several")
                return head, 1, self._indirect(addr, length)
            buffers.append((addr, length, flags))
            if not flags & VIRTQ_DESC_F_NEXT:
                return head, slots, buffers
            at = at + 1 if at + 1 < self._size else 0
        raise BrokenRing(f"a chain of more than {self._size} descriptors")

    def _indirect(self, addr: int, size: int) -> list[Descriptor]:
        if not self._has_indirect:
            raise BrokenRing("an indirect descriptor, which wasn't negotiated")
        most = max(self._size, MOST_INDIRECT)
        table = indirect_table(self._ram, addr, size, most)
        entries = list(iter_unpack(_DESCRIPTOR, table))
        if any(flags & _NOT_IN_TABLE for _, _, _, flags in entries):
            raise BrokenRing("an indirect table whose entries refer to others")
        return [(addr, length, flags) for addr, length, _, flags in entries]

    def put(self, head: int, slots: int, written: int) -> None:
        at = self._next_used & _INDEX
        flags = _BOTH if self._next_used & _WRAP else 0
        if written:
            flags |= VIRTQ_DESC_F_WRITE
        self._lengths[at * 4 + _LEN] = written
        self._words[at * _WORDS + _ID] = head
        at = at * _WORDS + _FLAGS
        if self._unpublished is None:
            self._unpublished = at, flags
        else:  # a driver sees none before the first
            self._words[at] = flags
        self._next_used = self._after(self._next_used, slots)
        self.unseen += slots

    def publish(self) -> None:
        if self._unpublished is not None:
            at, flags = self._unpublished
            self._words[at] = flags
            self._unpublished = None

    def wants_interrupt(self) -> bool:
        count, self.unseen = self.unseen, 0
        if not count:
            return False
        barrier()  # or we might miss that the driver has just begun to wait for it
        flags = self._driver[_EVENT_FLAGS]
        if flags != RING_EVENT_FLAGS_DESC or not self._has_event_idx:
            return flags != RING_EVENT_FLAGS_DISABLE
        event, now = self._driver[_DESC], self._next_used
        ago = (now & _INDEX) - (event & _INDEX)
        if (now ^ event) & _WRAP:
            ago += self._size
        return 0 < ago <= count or count >= self._size

    def disable_kicks(self) -> None:
        self._device[_EVENT_FLAGS] = RING_EVENT_FLAGS_DISABLE

    def enable_kicks(self) -> bool:
        if self._has_event_idx:
            self._device[_DESC] = self._next_avail
            self._device[_EVENT_FLAGS] = RING_EVENT_FLAGS_DESC
        else:
            self._device[_EVENT_FLAGS] = RING_EVENT_FLAGS_ENABLE
        barrier()  # or we might miss what came before the driver saw that
        return self._is_available()
