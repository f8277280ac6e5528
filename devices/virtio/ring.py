"""Ring: what a queue asks of a split or a packed one, and what both have in common."""

from collections.abc import Sequence
from typing import Final, Protocol

from ..errors import BrokenRing, NotRam
from ..guest_ram import GuestRam
from .chain import DESCRIPTOR_SIZE, Chain

MOST_INDIRECT: Final = 1024
"""Entries of an indirect table, in a queue that isn't larger.

The specification says no more than the queue has, but Linux checks that only where it
has no such tables (virtqueue_add_split), and QEMU takes as many as this.
"""


class Ring(Protocol):
    """One that is in use. No call blocks; all but `put` may read what a driver writes.

    Raises BrokenRing from `take` alone.
    """

    def take(self) -> Chain | None:
        """The next chain that the driver has made available, if there is one."""

    def put(self, head: int, slots: int, written: int) -> None:
        """Give a chain back, to which `written` bytes were; `publish` shows it."""

    def publish(self) -> None:
        """Let the driver see all that was put since, at once."""

    def wants_interrupt(self) -> bool:
        """Whether the driver waits for what was published since this was asked last."""

    def disable_kicks(self) -> None:
        """Ask for no notifications; some may still come."""

    def enable_kicks(self) -> bool:
        """Ask for them again; True if chains have come that it wasn't asked for."""

    def position(self) -> tuple[int, int]:
        """Where it takes and puts next, as 16 bits each: what it starts from."""

    def position_before(self, heads: Sequence[int]) -> tuple[int, int]:
        """`position`, but as if chains were still to be taken that are not put yet.

        They are all there are of those, in their order. Only where the ring still has
        them, one behind the other: else it is `position`.
        """

    unseen: int
    """How many entries were published since `wants_interrupt`; part of its state."""


def ring_view(ram: GuestRam, what: str, addr: int, size: int, align: int) -> memoryview:
    """A part of a ring. Raises BrokenRing unless it is aligned and in one RAM."""
    if addr % align:
        raise BrokenRing(f"the {what} at {addr:#x} isn't aligned to {align} bytes")
    try:
        return ram.view(addr, size)
    except NotRam:
        raise BrokenRing(
            f"the {what}, {size} bytes at {addr:#x}, isn't in one piece of RAM"
        ) from None


def indirect_table(ram: GuestRam, addr: int, size: int, most: int) -> bytes:
    """A copy of a table of at most `most` descriptors. Raises BrokenRing."""
    if size == 0 or size % DESCRIPTOR_SIZE or size > most * DESCRIPTOR_SIZE:
        raise BrokenRing(
            f"an indirect table has {size} bytes: it must be 1..{most} times 16"
        )
    try:
        return ram.read(addr, size)
    except NotRam:
        raise BrokenRing(f"an indirect table at {addr:#x} isn't in RAM") from None
