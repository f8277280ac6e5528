"""Chain: the buffers of one request, as scatter lists in guest memory."""

from collections.abc import Callable
from typing import Annotated, Final

from ..errors import BrokenRing, NotRam
from ..guest_ram import GuestRam
from ..state import State, Uint64

# Flags of a descriptor: VIRTIO 1.3, 2.7.5 and 2.8.5
VIRTQ_DESC_F_NEXT: Final = 1
VIRTQ_DESC_F_WRITE: Final = 2
VIRTQ_DESC_F_INDIRECT: Final = 4
VIRTQ_DESC_F_AVAIL: Final = 1 << 7
VIRTQ_DESC_F_USED: Final = 1 << 15

DESCRIPTOR_SIZE: Final = 16

MAX_QUEUE_SIZE: Final = 32768
CHAIN_SIZE_LIMIT: Final = 1 << 32

Descriptor = tuple[int, int, int]
"""Address, length and flags of a buffer."""


class ChainState(State, kw_only=True):
    """A chain in flight: what it points to, and how far it has come."""

    head: Annotated[int, range(1 << 16)]
    buffers: Annotated[
        tuple[tuple[Uint64, Annotated[int, range(1 << 32)], bool], ...],
        range(MAX_QUEUE_SIZE + 1),
    ]
    """Address, length, and whether the device may write there; in their order."""
    slots: Annotated[int, range(1, MAX_QUEUE_SIZE + 1)]
    """How many descriptors of the ring it takes."""
    was_read: Annotated[int, range(1 << 32)] = 0
    was_written: Annotated[int, range(1 << 32)] = 0


class Chain:
    """A request: first buffers to read, then ones to write to; each may have none.

    How a driver spreads what it says over buffers means nothing: a header may come in
    sixteen of them, or in one together with the data. `read` and `write` are for those
    that don't care; `readable` and `writable`, for `os.pwritev` and `os.preadv`, are
    all that these have left, and may be longer than IOV_MAX.

    They are guest memory: a driver may change them while they are looked at, so that
    what is checked must be what is then used, a copy. After the queue was reset, or is
    broken, and once the chain is pushed, they are empty.
    """

    __slots__ = (
        "_buffers",
        "head",
        "readable",
        "readable_size",
        "slots",
        "writable",
        "writable_size",
        "written",
    )

    def __init__(
        self, head: int, slots: int, buffers: list[Descriptor], ram: GuestRam
    ) -> None:
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        views, view = readable, ram.view
        readable_size = writable_size = 0
        for addr, length, flags in buffers:
            if flags & VIRTQ_DESC_F_WRITE:
                views = writable
                writable_size += length
            elif views is writable:
                raise BrokenRing("a buffer to read comes after one to write")
            else:
                readable_size += length
            if length:
                try:
                    views.append(view(addr, length))
                except NotRam:
                    views += _pieces(view, addr, length)
        if readable_size + writable_size >= CHAIN_SIZE_LIMIT:
            size = readable_size + writable_size
            raise BrokenRing(f"a chain has {size:#x} bytes, of at most 0xffffffff")
        self.head: Final = head
        """The number that its driver knows it by, until it is pushed."""
        self.slots: Final = slots
        """How many entries of the ring it takes."""
        self._buffers: Final = buffers
        self.readable: Final = readable
        """What is left to be read."""
        self.writable: Final = writable
        """What is left to be written to."""
        self.readable_size = readable_size
        """How many bytes `readable` has."""
        self.writable_size = writable_size
        """How many bytes `writable` has."""
        self.written = 0
        """How many bytes of the writable buffers were written, from their start."""

    @property
    def buffer_count(self) -> int:
        """How many buffers its driver has made it of."""
        return len(self._buffers)

    def read(self, size: int) -> bytes:
        """Take the next `size` bytes of `readable`, or what is left."""
        data = b"".join(_take(self.readable, size))
        self.readable_size -= len(data)
        return data

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Write to the start of `writable`, which goes on behind it.

        Returns how many bytes there was room for.
        """
        source = memoryview(data).cast("B")
        done = 0
        for part in _take(self.writable, len(source)):
            end = done + len(part)
            part[:] = source[done:end]
            done = end
        self._has_written(done)
        return done

    def wrote(self, size: int) -> None:
        """`size` bytes at the start of `writable` were written by other means."""
        self._has_written(sum(map(len, _take(self.writable, size))))

    def _has_written(self, size: int) -> None:
        self.written += size
        self.writable_size -= size

    def finish(self, written: int | None) -> int:
        """Cut it off; how many bytes were written, if `written` may claim that."""
        room = self.written + self.writable_size
        self.cut_off()
        if written is None:
            return self.written
        return written if written < room else room

    def cut_off(self) -> None:
        """Have no buffers any more, for who has kept it."""
        self.readable.clear()
        self.writable.clear()
        self.readable_size = self.writable_size = 0

    def state(self, as_new: bool = False) -> ChainState:
        """What `of` makes it of again; `as_new`, as when it was taken."""
        buffers = tuple(
            (addr, length, flags & VIRTQ_DESC_F_WRITE > 0)
            for addr, length, flags in self._buffers
        )
        state = ChainState(head=self.head, slots=self.slots, buffers=buffers)
        if as_new:
            return state
        to_read = sum(size for _, size, is_writable in buffers if not is_writable)
        was_read = to_read - self.readable_size
        return state.replace(was_read=was_read, was_written=self.written)

    @classmethod
    def of(cls, state: ChainState, ram: GuestRam) -> "Chain":
        """The chain whose state that is. Raises BrokenRing or InvalidState."""
        buffers = [
            (addr, length, VIRTQ_DESC_F_WRITE if is_writable else 0)
            for addr, length, is_writable in state.buffers
        ]
        chain = cls(state.head, state.slots, buffers, ram)
        skipped = sum(map(len, _take(chain.readable, state.was_read)))
        chain.readable_size -= skipped
        chain.wrote(state.was_written)
        state.require(
            (skipped, chain.written) == (state.was_read, state.was_written),
            "no more was read and written than the buffers have",
        )
        return chain


def _take(views: list[memoryview], size: int) -> list[memoryview]:
    """Up to `size` bytes from the start of `views`, where they aren't any longer."""
    whole = 0
    for view in views:
        if len(view) > size:
            break
        size -= len(view)
        whole += 1
    taken = views[:whole]
    del views[:whole]
    if size > 0 and views:
        taken.append(views[0][:size])
        views[0] = views[0][size:]
    return taken


def _pieces(
    view: Callable[[int, int], memoryview], addr: int, size: int
) -> list[memoryview]:
    """A buffer that isn't in one piece of RAM, in as few as it is in.

    Two pieces may lie side by side for the guest. Raises BrokenRing where there is no
    RAM.
    """
    pieces = []
    while size:
        piece = _longest(view, addr, size)
        if piece is None:
            raise BrokenRing(f"a buffer at {addr:#x} is not in RAM")
        pieces.append(piece)
        addr += len(piece)
        size -= len(piece)
    return pieces


def _longest(
    view: Callable[[int, int], memoryview], addr: int, size: int
) -> memoryview | None:
    """The longest view from `addr` on, of at most `size` bytes."""
    longest = None
    fits, fails = 0, size + 1
    while fails - fits > 1:
        tried = (fits + fails) // 2
        try:
            longest = view(addr, tried)
            fits = tried
        except NotRam:
            fails = tried
    return longest
