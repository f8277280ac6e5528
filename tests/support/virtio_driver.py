"""A driver's half of a virtqueue: it writes rings and buffers as a guest would.

Written from VIRTIO 1.3, 2.6 to 2.8, without a look at the device's half, and strict:
what a device may not do is an AssertionError here. It speaks to memory alone; the
registers of a transport are up to the test: see `set_up`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from struct import pack, unpack
from typing import Final

from vmm.devices.guest_ram import GuestRam
from vmm.devices.virtio.features import (
    VIRTIO_F_EVENT_IDX,
    VIRTIO_F_INDIRECT_DESC,
    VIRTIO_F_RING_PACKED,
)
from vmm.devices.virtio.queue import Virtqueue

NEXT, WRITE, INDIRECT = 1, 2, 4
AVAIL, USED = 1 << 7, 1 << 15

EVENT_IDX: Final = 1 << VIRTIO_F_EVENT_IDX
INDIRECT_DESC: Final = 1 << VIRTIO_F_INDIRECT_DESC
PACKED: Final = 1 << VIRTIO_F_RING_PACKED

Buffer = tuple[int, int, bool]
"""Address, length, and whether the device may write to it."""


class Heap:
    """First fit, between two addresses."""

    def __init__(self, start: int, end: int) -> None:
        self._start, self._end = start, end
        self._taken: dict[int, int] = {}  # address: end

    def allocate(self, size: int, align: int = 1) -> int:
        at, size = self._start, max(size, 1)
        for start, end in sorted(self._taken.items()):
            if at + size <= start:
                break
            at = -(-end // align) * align
        assert at + size <= self._end, "the driver's RAM is too small for this test"
        self._taken[at] = at + size
        return at

    def __contains__(self, at: int) -> bool:
        return at in self._taken

    def free(self, at: int) -> None:
        del self._taken[at]


class Request:
    """What a driver has made available, and in the end what has become of it."""

    def __init__(self, buffers: Sequence[Buffer], slots: int) -> None:
        self.buffers = buffers
        self.slots = slots
        self.table: int | None = None
        self.is_done = False
        self.length = 0
        """How many bytes the device says that it has written."""
        self.data = b""
        """Those bytes."""


class VirtioDriver(ABC):
    """A driver of one queue, which has all of `region` in `ram`, for ring and buffers.

    `make` gives a driver of the kind of ring that the features name.
    """

    def __init__(
        self, ram: GuestRam, region: range, size: int = 8, features: int = 0
    ) -> None:
        self.ram, self.size, self.features = ram, size, features
        self.has_event_idx = bool(features & EVENT_IDX)
        self.is_packed = bool(features & PACKED)
        self.areas = self._lay_out(region.start)
        """Descriptor area, driver area, device area."""
        ends = zip(self.areas, self.area_sizes(), strict=True)
        end = max(start + area for start, area in ends)
        for start, area in zip(self.areas, self.area_sizes(), strict=True):
            ram.write(start, bytes(area))
        self.heap = Heap(-(-end // 16) * 16, region.stop)
        self.in_flight: dict[int, Request] = {}
        self.free_slots = size

    @staticmethod
    def make(
        ram: GuestRam, region: range, size: int = 8, features: int = 0
    ) -> "VirtioDriver":
        kind = PackedDriver if features & PACKED else SplitDriver
        return kind(ram, region, size, features)

    def word(self, addr: int) -> int:
        """16 bits at `addr`."""
        word: int = self.ram.view(addr, 2).cast("H")[0]
        return word

    def put_word(self, addr: int, value: int) -> None:
        """Store 16 bits at once, as all that the device may look at meanwhile."""
        self.ram.view(addr, 2).cast("H")[0] = value

    def set_up(self, queue: Virtqueue) -> None:
        """Do to a queue what a transport does."""
        queue.size = self.size
        queue.desc, queue.driver, queue.device = self.areas
        queue.enable(self.ram, self.features)

    # Requests

    def send(
        self, readable: Sequence[bytes], writable: Sequence[int] = (), **how: bool
    ) -> Request:
        """Make a request of these buffers available; `indirect`, if it is to be.

        Writable ones are filled with 0xEE.
        """
        buffers = [(self.allocate(data), len(data), False) for data in readable]
        buffers += [
            (self.allocate(b"\xee" * length), length, True) for length in writable
        ]
        return self.offer(buffers, **how)

    def allocate(self, data: bytes, align: int = 1) -> int:
        at = self.heap.allocate(len(data), align)
        self.ram.write(at, data)
        return at

    def offer(self, buffers: Sequence[Buffer], indirect: bool = False) -> Request:
        """Make buffers available that the heap has; or not, for hostile ones."""
        request = Request(buffers, 1 if indirect else len(buffers))
        assert request.slots <= self.free_slots, "the ring is full"
        descriptors = [
            (addr, length, WRITE if is_writable else 0)
            for addr, length, is_writable in buffers
        ]
        if indirect:
            table = self._table(descriptors)
            request.table = self.allocate(table, 16)
            descriptors = [(request.table, len(table), INDIRECT)]
        self.free_slots -= request.slots
        head = self._make_available(descriptors)
        assert head not in self.in_flight
        self.in_flight[head] = request
        return request

    def collect(self) -> list[Request]:
        """The requests that the device is done with, since this was asked last."""
        done = []
        while (used := self._next_used()) is not None:
            head, length = used
            request = self.in_flight.pop(head, None)
            assert request is not None, f"used twice, or never available: {head}"
            self._free(head, request)
            room = sum(size for _, size, is_writable in request.buffers if is_writable)
            assert length <= room, f"{length} bytes written of {room}"
            request.is_done, request.length = True, length
            request.data = self._written(request)[:length]
            self._give_back(request)
            done.append(request)
        return done

    def _written(self, request: Request) -> bytes:
        return b"".join(
            self.ram.read(addr, size)
            for addr, size, is_writable in request.buffers
            if is_writable and size
        )

    def _give_back(self, request: Request) -> None:
        self.free_slots += request.slots
        for addr, _, _ in request.buffers:
            if addr in self.heap:
                self.heap.free(addr)
        if request.table is not None:
            self.heap.free(request.table)

    # Which rings do in their ways

    @abstractmethod
    def _lay_out(self, at: int) -> tuple[int, int, int]: ...

    @abstractmethod
    def area_sizes(self) -> tuple[int, int, int]: ...

    @abstractmethod
    def _table(self, descriptors: list[tuple[int, int, int]]) -> bytes:
        """An indirect table."""

    @abstractmethod
    def _make_available(self, descriptors: list[tuple[int, int, int]]) -> int: ...

    @abstractmethod
    def _next_used(self) -> tuple[int, int] | None: ...

    @abstractmethod
    def _free(self, head: int, request: Request) -> None: ...

    @abstractmethod
    def needs_kick(self) -> bool:
        """Whether the device wants to be told of what came since this was asked."""

    @abstractmethod
    def disable_interrupts(self) -> None: ...

    @abstractmethod
    def enable_interrupts(self, after: int = 1) -> None:
        """Ask for one after so many more requests, which needs EVENT_IDX but for 1."""


class SplitDriver(VirtioDriver):
    """Of a split ring, 2.7."""

    def __init__(
        self, ram: GuestRam, region: range, size: int = 8, features: int = 0
    ) -> None:
        super().__init__(ram, region, size, features)
        self.free_list = list(range(size))
        self.chains: dict[int, list[int]] = {}
        self.avail_idx = self.used_idx = self.kicked_idx = 0

    def _lay_out(self, at: int) -> tuple[int, int, int]:
        desc = -(-at // 16) * 16
        driver = desc + 16 * self.size
        device = -(-(driver + 6 + 2 * self.size) // 4) * 4
        return desc, driver, device

    def area_sizes(self) -> tuple[int, int, int]:
        return 16 * self.size, 6 + 2 * self.size, 6 + 8 * self.size

    def _table(self, descriptors: list[tuple[int, int, int]]) -> bytes:
        last = len(descriptors) - 1
        return b"".join(
            pack("<QIHH", addr, size, flags | (NEXT if at < last else 0), at + 1)
            for at, (addr, size, flags) in enumerate(descriptors)
        )

    def put_descriptor(self, at: int, *fields: int) -> None:
        """Address, length, flags and next."""
        self.ram.write(self.areas[0] + 16 * at, pack("<QIHH", *fields))

    def put_available(self, head: int) -> None:
        """Only the head, of whatever descriptors there are."""
        self.put_avail_word(2 + self.avail_idx % self.size, head)
        self.put_avail_idx(self.avail_idx + 1)

    def put_avail_idx(self, idx: int) -> None:
        self.avail_idx = idx & 0xFFFF
        self.put_avail_word(1, self.avail_idx)

    def put_avail_word(self, at: int, value: int) -> None:
        self.put_word(self.areas[1] + 2 * at, value)

    def used_word(self, at: int) -> int:
        return self.word(self.areas[2] + 2 * at)

    @property
    def avail_event(self) -> int:
        return self.used_word(2 + 4 * self.size)

    def _make_available(self, descriptors: list[tuple[int, int, int]]) -> int:
        places = [self.free_list.pop() for _ in descriptors]
        for at, (addr, size, flags) in enumerate(descriptors):
            has_next = at + 1 < len(places)
            following = places[at + 1] if has_next else 0xFFFF
            flags |= NEXT if has_next else 0
            self.put_descriptor(places[at], addr, size, flags, following)
        self.chains[places[0]] = places
        self.put_available(places[0])
        return places[0]

    def _next_used(self) -> tuple[int, int] | None:
        idx = self.used_word(1)
        count = idx - self.used_idx & 0xFFFF
        assert count <= len(self.in_flight), "more used than were available"
        if not count:
            return None
        at = self.areas[2] + 4 + 8 * (self.used_idx % self.size)
        self.used_idx = self.used_idx + 1 & 0xFFFF
        head, length = unpack("<II", self.ram.read(at, 8))
        return head, length

    def _free(self, head: int, request: Request) -> None:
        self.free_list.extend(self.chains.pop(head))

    def needs_kick(self) -> bool:
        old, self.kicked_idx = self.kicked_idx, self.avail_idx
        if self.has_event_idx:
            assert self.used_word(0) == 0, "used.flags is 0 with EVENT_IDX"
            ago = self.avail_idx - self.avail_event - 1 & 0xFFFF
            return ago < (self.avail_idx - old & 0xFFFF)
        assert self.avail_event == 0, "avail_event isn't written without EVENT_IDX"
        return not self.used_word(0) & 1

    def disable_interrupts(self) -> None:
        if self.has_event_idx:
            self.put_avail_word(2 + self.size, self.used_idx - 1 & 0xFFFF)
        else:
            self.put_avail_word(0, 1)

    def enable_interrupts(self, after: int = 1) -> None:
        if self.has_event_idx:
            self.put_avail_word(2 + self.size, self.used_idx + after - 1 & 0xFFFF)
        else:
            self.put_avail_word(0, 0)


class PackedDriver(VirtioDriver):
    """Of a packed ring, 2.8."""

    def __init__(
        self, ram: GuestRam, region: range, size: int = 8, features: int = 0
    ) -> None:
        super().__init__(ram, region, size, features)
        self.free_ids = list(range(size))
        self.next_avail, self.avail_wrap = 0, 1
        self.next_used, self.used_wrap = 0, 1
        self.added = 0  # descriptors since the last needs_kick

    def _lay_out(self, at: int) -> tuple[int, int, int]:
        desc = -(-at // 16) * 16
        driver = desc + 16 * self.size
        return desc, driver, driver + 4

    def area_sizes(self) -> tuple[int, int, int]:
        return 16 * self.size, 4, 4

    def _table(self, descriptors: list[tuple[int, int, int]]) -> bytes:
        return b"".join(
            pack("<QIHH", addr, size, 0, flags) for addr, size, flags in descriptors
        )

    def put_descriptor(self, at: int, *fields: int) -> None:
        """Address, length, buffer ID and flags, these last."""
        *others, flags = fields
        self.ram.write(self.areas[0] + 16 * at, pack("<QIH", *others))
        self.put_word(self.areas[0] + 16 * at + 14, flags)

    def put_chain(self, descriptors: Sequence[tuple[int, int, int, int]]) -> None:
        """Write some at the next places; their flags lack who owns them."""
        places = []
        for descriptor in descriptors:
            places.append((self.next_avail, self.avail_wrap, descriptor))
            self.next_avail += 1
            if self.next_avail == self.size:
                self.next_avail, self.avail_wrap = 0, self.avail_wrap ^ 1
        self.added += len(places)
        for at, wrap, (addr, size, head, flags) in reversed(places):  # the first last
            self.put_descriptor(at, addr, size, head, flags | (AVAIL if wrap else USED))

    def _make_available(self, descriptors: list[tuple[int, int, int]]) -> int:
        head = self.free_ids.pop()
        *others, (addr, size, flags) = descriptors
        # Only in the last of a chain does the ID mean anything.
        chain = [(addr, size, 0xFFFF, flags | NEXT) for addr, size, flags in others]
        self.put_chain([*chain, (addr, size, head, flags)])
        return head

    def _next_used(self) -> tuple[int, int] | None:
        where = self.areas[0] + 16 * self.next_used
        flags = self.word(where + 14)
        mine = AVAIL | USED if self.used_wrap else 0
        if flags & (AVAIL | USED) != mine or not self.in_flight:
            return None
        length, head = unpack("<IH", self.ram.read(where + 8, 6))
        assert bool(flags & WRITE) == (length > 0)
        return head, length

    def _free(self, head: int, request: Request) -> None:
        self.free_ids.append(head)
        self.next_used += request.slots
        if self.next_used >= self.size:
            self.next_used -= self.size
            self.used_wrap ^= 1

    def needs_kick(self) -> bool:
        added, self.added = self.added, 0
        place, flags = self.word(self.areas[2]), self.word(self.areas[2] + 2)
        if flags != 2:
            assert flags < 2, "event flags 3 are reserved"
            return added > 0 and flags == 0
        assert self.has_event_idx
        ago = self.next_avail - (place & 0x7FFF)
        if place >> 15 != self.avail_wrap:
            ago += self.size
        # Behind a whole round, the device may have wanted one in the last.
        return 0 < ago <= added or added >= self.size

    def _put_event(self, place: int, flags: int) -> None:
        self.put_word(self.areas[1], place)
        self.put_word(self.areas[1] + 2, flags)

    def disable_interrupts(self) -> None:
        self._put_event(0, 1)

    def enable_interrupts(self, after: int = 1) -> None:
        if not self.has_event_idx:
            self._put_event(0, 0)
            return
        place, wrap = self.next_used + after - 1, self.used_wrap
        if place >= self.size:
            place, wrap = place - self.size, wrap ^ 1
        self._put_event(place | wrap << 15, 2)
