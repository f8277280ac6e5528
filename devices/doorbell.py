"""Doorbell: a write that only says "look here", which KVM can signal by itself."""

from collections.abc import Callable

from .errors import InvalidRange
from .record import Record

SIZES = (1, 2, 4, 8)


class Doorbell(Record, kw_only=True):
    """Writes of `size` bytes at `base`, a port or a guest physical address.

    With a `value` only writes of that value ring. While a VMM has handed it to
    KVM (ioeventfd), such a write makes no exit and reaches the device as a call of
    `on_ring`, on a thread of the host's; several may come as one. Elsewhere, and
    for any other write, the device's `write` or `pio_write` is called as ever, so
    it rings there, too. With an `eventfd` of the device's own KVM signals that, and
    `on_ring` isn't called: somebody else waits for it.
    Raises InvalidRange for a size or value that can't be.
    """

    base: int
    size: int
    on_ring: Callable[[], None]
    is_pio: bool = False
    value: int | None = None
    eventfd: int | None = None

    def __post_init__(self) -> None:
        if self.size not in SIZES or (self.is_pio and self.size == 8):
            raise InvalidRange(f"no access of {self.size} bytes can ring a doorbell")
        if self.value is not None and not 0 <= self.value < 1 << 8 * self.size:
            raise InvalidRange(f"{self.value:#x} does not fit {self.size} bytes")
