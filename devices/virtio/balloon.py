"""VirtioBalloon: RAM that the guest doesn't need goes back to the host.

The driver inflates the balloon until it has as many pages as the host wants; in want of
memory it takes some back. What it has freed it may report besides, without being asked.
Sources: VIRTIO 1.3, 5.5; Linux drivers/virtio/virtio_balloon.c.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, Annotated, Final

from ..errors import NotRam
from ..state import State
from .device import VirtioDevice

if TYPE_CHECKING:
    from ..guest_ram import GuestRam
    from .chain import Chain
    from .queue import Virtqueue

VIRTIO_BALLOON_F_STATS_VQ: Final = 1
VIRTIO_BALLOON_F_DEFLATE_ON_OOM: Final = 2
VIRTIO_BALLOON_F_PAGE_POISON: Final = 4
VIRTIO_BALLOON_F_PAGE_REPORTING: Final = 5

BALLOON_PAGE: Final = 4096
"""Its unit, whatever the pages of guest and host are."""
PFNS_MAX: Final = 1024
"""Page numbers that are looked at in one buffer; Linux has 256 there."""
CHAINS_A_TURN: Final = 4
"""Buffers until others have their turn: each page may cost its host a madvise(2)."""
STATS_MAX: Final = 64  # in one buffer; of 16 tags that there are

STATISTICS: Final = (
    "swap_in",
    "swap_out",
    "major_faults",
    "minor_faults",
    "free_memory",
    "total_memory",
    "available_memory",
    "disk_caches",
    "hugetlb_allocations",
    "hugetlb_failures",
    "oom_kills",
    "allocation_stalls",
    "async_scans",
    "direct_scans",
    "async_reclaims",
    "direct_reclaims",
)
"""What the driver's statistics are called here, by their tag."""

_CONFIG: Final = Struct("<IIII")  # num_pages, actual, free_page_hint_cmd_id, poison_val
_ACTUAL: Final = 4
_POISON_VAL: Final = 12
_STATS_QUEUE: Final = 2  # where there is one
_STATISTIC: Final = Struct("<HQ")

Uint32 = Annotated[int, range(1 << 32)]
OnStatistics = Callable[[dict[str, int]], None]


class BalloonState(State):
    """A VirtioBalloon's; pages are of 4 KiB."""

    num_pages: Uint32
    actual: Uint32
    poison_val: Uint32
    has_statistics: bool = False
    """Whether it has a buffer of statistics, which it will be given once more."""


class VirtioBalloon(VirtioDevice):
    """Takes pages out of `ram`, of which there are `size` bytes.

    `target` is what the host wants the balloon to have, `actual` what the driver says
    that it has, in bytes. A driver that gives us pages that it uses loses them, and
    nobody else anything.
    """

    device_type = 5
    queue_sizes = (128, 128, 128, 128)
    features = (
        1 << VIRTIO_BALLOON_F_STATS_VQ
        | 1 << VIRTIO_BALLOON_F_DEFLATE_ON_OOM
        | 1 << VIRTIO_BALLOON_F_PAGE_POISON
        | 1 << VIRTIO_BALLOON_F_PAGE_REPORTING
    )

    def __init__(self, ram: "GuestRam", size: int, target: int = 0) -> None:
        """Raises ValueError for a target that is more than there is."""
        super().__init__()
        self._ram = ram
        self._size = size
        self._num_pages = self._pages(target)
        self.on_actual: Callable[[], None] = lambda: None
        """Called when the driver says what it has, with the device's lock held."""
        self._power_on()

    def _power_on(self) -> None:
        self._actual = 0
        self._poison_val = 0
        self._on_statistics: list[OnStatistics] = []
        self._kept: Chain | None = None  # in which the driver waits to be asked
        self._are_old = False  # the statistics that come next: from before a restore

    @property
    def target(self) -> int:
        """Bytes that the balloon is to have, 0 up to all of RAM, in whole pages.

        The driver comes as near as it can, and lets go of some in want of memory. To
        set it raises ValueError for what can't be.
        """
        return self._num_pages * BALLOON_PAGE

    @target.setter
    def target(self, size: int) -> None:
        pages = self._pages(size)
        with self.lock:
            if pages != self._num_pages:
                self._num_pages = pages
                self.config_changed()

    def _pages(self, size: int) -> int:
        if not 0 <= size <= self._size:
            raise ValueError(f"target is {size}, not within 0..{self._size}")
        return size // BALLOON_PAGE

    @property
    def actual(self) -> int:
        """Bytes that the balloon has, as its driver says; never more than RAM has."""
        return min(self._actual * BALLOON_PAGE, self._size)

    def ask_statistics(self, on_statistics: OnStatistics) -> bool:
        """Have the driver say how it is, and call `on_statistics` with it, once.

        That happens with the device's lock held; never, if there is a reset before.
        False: there is no driver that could.
        """
        with self.working():
            if not (self.is_active and self.has(VIRTIO_BALLOON_F_STATS_VQ)):
                return False
            self._on_statistics.append(on_statistics)
            self._give_back_kept()
        return True

    def forget_statistics(self, on_statistics: OnStatistics) -> None:
        """Don't call it any more, as somebody has given up. Idempotent."""
        with self.lock, suppress(ValueError):
            self._on_statistics.remove(on_statistics)

    # As its driver has it

    def config(self) -> bytes:
        return _CONFIG.pack(self._num_pages, self._actual, 0, self._poison_val)

    def write_config(self, offset: int, data: bytes) -> None:
        if len(data) != 4:
            return
        if offset == _ACTUAL:
            self._actual = int.from_bytes(data, "little")
            self.on_actual()
        elif offset == _POISON_VAL:
            self._poison_val = int.from_bytes(data, "little")

    def activate(self) -> None:
        """Linux has put its first statistics there, and kicked, before it is ready."""
        self.transport.serve_again(self.queues[_STATS_QUEUE])

    def handle(self, queue: "Virtqueue") -> None:
        take = self._takers()[queue.index]
        for count, chain in enumerate(queue, 1):
            take(queue, chain)
            if count == CHAINS_A_TURN:
                queue.more = True
                return

    def _takers(self) -> "list[Callable[[Virtqueue, Chain], None]]":
        """What is done with a chain, by the index of its queue.

        Linux numbers those queues alone that it has features for.
        """
        takers: list[Callable[[Virtqueue, Chain], None]]
        takers = [self._inflate, self._deflate]
        if self.has(VIRTIO_BALLOON_F_STATS_VQ):
            takers.append(self._take_statistics)
        if self.has(VIRTIO_BALLOON_F_PAGE_REPORTING):
            takers.append(self._take_report)
        takers += [self._ignore] * (len(self.queues) - len(takers))
        return takers

    def _inflate(self, queue: "Virtqueue", chain: "Chain") -> None:
        data = chain.read(4 * PFNS_MAX)
        pfns = memoryview(data)[: len(data) & ~3].cast("I")
        for first, end in _runs(sorted(set(pfns))):
            self._discard(first, end)
        queue.push(chain)

    def _discard(self, first: int, end: int) -> None:
        """Give pages `first`..`end` - 1 back, but those that aren't RAM."""
        try:
            self._ram.discard(first * BALLOON_PAGE, (end - first) * BALLOON_PAGE)
        except NotRam:
            if end - first > 1:
                middle = (first + end) // 2
                self._discard(first, middle)
                self._discard(middle, end)

    def _deflate(self, queue: "Virtqueue", chain: "Chain") -> None:
        """The host commits pages again as they are touched: nothing is to be done."""
        queue.push(chain)

    def _take_report(self, queue: "Virtqueue", chain: "Chain") -> None:
        """Its buffers are free pages, which read as zero or as before when used again.

        As `poison_val`, if the driver poisons what it frees: then they stay.
        """
        if not self._poison_val:
            for addr, size, is_writable in chain.state().buffers:
                first = -(-addr // BALLOON_PAGE)
                end = (addr + size) // BALLOON_PAGE
                if is_writable and first < end:
                    self._discard(first, end)
        queue.push(chain)

    def _take_statistics(self, queue: "Virtqueue", chain: "Chain") -> None:
        """It is kept until the next ones are wanted; some may be by now."""
        self._give_back_kept()
        self._kept = chain
        are_old, self._are_old = self._are_old, False
        if are_old:
            if self._on_statistics:
                self._give_back_kept()
            return
        told = _statistics(chain.read(STATS_MAX * _STATISTIC.size))
        if told:
            for tell in self._on_statistics:
                tell(told)
            self._on_statistics.clear()

    def _give_back_kept(self) -> None:
        if self._kept is not None:
            self.queues[_STATS_QUEUE].push(self._kept)
            self._kept = None

    def _ignore(self, queue: "Virtqueue", chain: "Chain") -> None:
        """There is no such queue for a driver with these features."""
        queue.push(chain)

    def reset_queue(self, queue: "Virtqueue") -> None:
        if queue.index == _STATS_QUEUE:
            self._kept = None
            self._are_old = False

    def reset(self) -> None:
        self._power_on()

    def state(self) -> BalloonState:
        has_statistics = self._kept is not None or self._are_old
        return BalloonState(
            self._num_pages, self._actual, self._poison_val, has_statistics
        )

    def restore(self, state: State | None) -> None:
        saved = BalloonState.of(state)
        most = self._size // BALLOON_PAGE
        saved.require(saved.num_pages <= most, f"num_pages is at most {most:#x}")
        self._power_on()
        self._num_pages = saved.num_pages
        self._actual = saved.actual
        self._poison_val = saved.poison_val
        self._are_old = saved.has_statistics


def _runs(pages: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and end of each run of page numbers, which are in order."""
    first = end = -1
    for page in pages:
        if page != end:
            if end >= 0:
                yield first, end
            first = page
        end = page + 1
    if end >= 0:
        yield first, end


def _statistics(data: bytes) -> dict[str, int]:
    """Those of them that have a name; none of a buffer of another length."""
    if len(data) % _STATISTIC.size:
        return {}
    return {
        STATISTICS[tag]: value
        for tag, value in _STATISTIC.iter_unpack(data)
        if tag < len(STATISTICS)
    }
