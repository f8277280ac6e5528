"""Virtqueue: where a driver puts its requests, and gets them back answered."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Final

from ..errors import BrokenRing as BrokenRing
from ..errors import InvalidRange, InvalidState
from ..guest_ram import GuestRam
from ..state import State, Uint64
from .chain import MAX_QUEUE_SIZE, Chain, ChainState
from .features import VIRTIO_F_RING_PACKED

if TYPE_CHECKING:
    from .ring import Ring

TURN_MAX: Final = 8192
"""Buffers that the chains of one iteration have, but for the last one's, and more only
where the queue is larger."""
_MOST_TOLD: Final = 200  # characters of what is wrong with a ring

Uint16 = Annotated[int, range(1 << 16)]


class VirtqueueState(State, kw_only=True):
    """What `Virtqueue.state()` gives and `restore` takes."""

    size: Uint16
    desc: Uint64
    driver: Uint64
    device: Uint64
    is_enabled: bool = False
    broken: Annotated[str, range(_MOST_TOLD + 1)] = ""
    next_avail: Uint16 = 0
    """The index of what is taken next; of a packed ring, bit 15 is its wrap counter."""
    next_used: Uint16 = 0
    unseen: Annotated[int, range(1 << 32)] = 0
    """How many entries were used since the driver was interrupted, or needn't be."""
    in_flight: Annotated[tuple[ChainState, ...], range(MAX_QUEUE_SIZE + 1)] = ()
    """The chains that the device has, in the order in which it took them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        heads = {chain.head for chain in self.in_flight}
        self.require(len(heads) == len(self.in_flight), "a chain is in flight once")
        slots = sum(chain.slots for chain in self.in_flight)
        self.require(slots <= self.size, "no more is in flight than the ring has")


class Virtqueue:
    """One queue of a device; of `max_size` entries, 1..32768, or what the driver likes.

    Iterating takes what the driver has made available, chain by chain, without being
    notified meanwhile. Each is given back once by `push`, in any order:

        for chain in queue:
            request = chain.read(16)
            ...
            chain.write(b"answer")
            queue.push(chain)

    It isn't safe to use from several threads at once. A driver that breaks the rules of
    the ring raises BrokenRing out of whatever takes a chain, which is for VirtioDevice
    to catch; the queue then keeps still until a reset: nothing is taken from it, what
    is pushed isn't seen, and all chains are cut off.

    A transport sets `size`, `desc`, `driver` and `device`, the addresses of the three
    areas, as the driver writes them, and calls `enable`.
    Raises InvalidRange for another `max_size`.
    """

    def __init__(self, index: int, max_size: int) -> None:
        if not 1 <= max_size <= MAX_QUEUE_SIZE:
            raise InvalidRange(f"a virtqueue has 1..{MAX_QUEUE_SIZE}, not {max_size}")
        self.index: Final = index
        self.max_size = max_size
        self._in_flight: Final[dict[int, Chain]] = {}
        self._returned: Final[deque[Chain]] = deque()
        self.reset()

    def reset(self) -> None:
        """Forget the driver's ring, as a new queue; chains in flight are cut off."""
        self._stop()
        self.size = self.max_size
        self.desc = self.driver = self.device = 0
        self.is_enabled = False
        self.broken = ""
        """What was wrong with the ring, if anything was."""
        self._broke_at = 0, 0
        self.more = False
        """Whether the last iteration ended with chains left that nobody is told of.

        As it takes at most `size` chains, and none once these had TURN_MAX buffers,
        lest a busy driver keep the thread to itself. Whoever sees that has to look at
        the queue again; who ends the iteration to that end sets it.
        """

    def _stop(self) -> None:
        self._ring: Ring | None = None
        for chain in self._in_flight.values():
            chain.cut_off()
        self._in_flight.clear()
        self._returned.clear()

    def enable(
        self, ram: GuestRam, features: int, start: tuple[int, int] | None = None
    ) -> None:
        """Start with the ring that the driver has set up; `features` as negotiated.

        `start` is where, if it was in use before: `next_avail` and `next_used` of a
        state. Raises BrokenRing for a size, an alignment or an address that can't be;
        it stays disabled then.
        """
        try:
            self._ring = self._ring_at(
                ram, features, self.size, (self.desc, self.driver, self.device), start
            )
        except BrokenRing as error:
            raise BrokenRing(f"queue {self.index}: {error}") from None
        self.is_enabled = True

    def _ring_at(
        self,
        ram: GuestRam,
        features: int,
        size: int,
        areas: tuple[int, int, int],
        start: tuple[int, int] | None,
    ) -> "Ring":
        if not 1 <= size <= self.max_size:
            raise BrokenRing(f"a ring of {size} entries, of 1..{self.max_size}")
        if features >> VIRTIO_F_RING_PACKED & 1:
            from .packed_ring import PackedRing  # Linux takes it whenever it is offered

            return PackedRing(ram, size, areas, features, start)
        from .split_ring import SplitRing

        return SplitRing(ram, size, areas, features, start)

    def pop(self) -> Chain | None:
        """The next chain, or None while there is none. Raises BrokenRing.

        Those that were in flight when the state was saved that this was restored from,
        and those of `put_back`, come first.
        """
        ring = self._ring
        if ring is None:
            return None
        if self._returned:
            return self._returned.popleft()
        try:
            chain = ring.take()
            if chain is not None:
                self._add(chain)
        except BrokenRing as error:
            self.broken = f"queue {self.index}: {error}"[:_MOST_TOLD]
            self._broke_at = ring.position()
            self._stop()
            raise BrokenRing(self.broken) from None
        return chain

    def _add(self, chain: Chain) -> None:
        if chain.head in self._in_flight:
            raise BrokenRing(f"chain {chain.head} is made available twice")
        self._in_flight[chain.head] = chain

    def put_back(self, chain: Chain) -> None:
        """Have `pop` give `chain` once more, before others, as far as it was used."""
        if self._in_flight.get(chain.head) is chain:
            self._returned.appendleft(chain)

    def __iter__(self) -> Iterator[Chain]:
        """Take chains as they come, not without end; see `more`. Raises BrokenRing."""
        self.more = False
        ring = self._ring
        if ring is None:
            return
        ring.disable_kicks()
        left = max(self.size, TURN_MAX)
        try:
            for _ in range(self.size):
                chain = self.pop()
                if chain is not None:
                    left -= chain.buffer_count
                    yield chain
                    if left <= 0:
                        break
                elif ring.enable_kicks():
                    ring.disable_kicks()
                else:
                    return
            self.more = True
        finally:
            if ring is self._ring:
                ring.enable_kicks()

    def push(self, chain: Chain, written: int | None = None) -> None:
        """Give `chain` back, answered; `written` bytes of it, or `chain.written`.

        Does nothing for a chain that isn't in flight: pushed already, or of a former
        life of the queue. The driver isn't interrupted before `needs_interrupt`.
        """
        ring, head = self._ring, chain.head
        if ring is not None and self._in_flight.get(head) is chain:
            del self._in_flight[head]
            ring.put(head, chain.slots, chain.finish(written))
            ring.publish()

    def push_all(self, chains: Iterable[tuple[Chain, int | None]]) -> None:
        """`push` several, which the driver gets to see at once."""
        ring = self._ring
        if ring is None:
            return
        for chain, written in chains:
            if self._in_flight.get(chain.head) is chain:
                del self._in_flight[chain.head]
                ring.put(chain.head, chain.slots, chain.finish(written))
        ring.publish()

    def needs_interrupt(self) -> bool:
        """Whether to interrupt the driver for what was pushed since this was asked.

        True at most once for that: whoever asks sends the interrupt.
        """
        return self._ring is not None and self._ring.wants_interrupt()

    def position(self) -> tuple[int, int]:
        """Where `enable` may start to go on from here, if it is reset now.

        Chains in flight are then taken once more, unless others were taken later and
        are back already: the ring may have lost those.
        """
        if self._ring is None:
            return self._broke_at
        return self._ring.position_before(list(self._in_flight))

    def state(self) -> VirtqueueState:
        """All of it, chains in flight included; see `restore`."""
        ring = self._ring
        next_avail, next_used = self._broke_at if ring is None else ring.position()
        return VirtqueueState(
            size=self.size,
            desc=self.desc,
            driver=self.driver,
            device=self.device,
            is_enabled=self.is_enabled,
            broken=self.broken,
            next_avail=next_avail,
            next_used=next_used,
            unseen=0 if ring is None else ring.unseen,
            in_flight=tuple(
                chain.state(as_new=chain not in self._returned)
                for chain in self._in_flight.values()
            ),
        )

    def restore(self, state: VirtqueueState, ram: GuestRam, features: int) -> None:
        """Go on from `state`, with RAM as it was then and the same `features`.

        `pop` gives the chains in flight once more, so that a device needn't save them
        itself; it is to look at the queue. They come as new, but for those that were
        put back: these as far as they had been used.
        Raises InvalidState, with nothing changed, for what can't be.
        """
        ring, chains = None, []
        areas = state.desc, state.driver, state.device
        start = state.next_avail, state.next_used
        if state.is_enabled and not state.broken:
            try:
                ring = self._ring_at(ram, features, state.size, areas, start)
                chains = [Chain.of(chain, ram) for chain in state.in_flight]
            except BrokenRing as error:
                raise InvalidState(f"queue {self.index}: {error}") from None
            ring.unseen = state.unseen
        self.reset()
        self._ring = ring
        self.size = state.size
        self.desc, self.driver, self.device = areas
        self.is_enabled = state.is_enabled
        self.broken = state.broken
        self._broke_at = start
        self._in_flight.update({chain.head: chain for chain in chains})
        self._returned.extend(chains)
