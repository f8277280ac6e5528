"""BufferedSink: the bounded buffer between a device and the host's writer."""

from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING, Literal

from .clock import Clock

if TYPE_CHECKING:  # most sinks have no rate
    from .token_bucket import TokenBucket


class BufferedSink:
    """A bounded Sink that holds bytes until the host writes them somewhere.

    A device calls `write`; the host, from any one thread, calls `peek`,
    `consume` and `len`. What finds no room, in the buffer or under the rate
    limit, is refused with policy "block", and `on_room` tells the device when
    there is room again; with policy "drop" it is taken and thrown away. What
    comes after `total_limit` bytes is thrown away for ever, whatever the
    policy: were it refused, the guest would wait for room that never comes.

    `on_data` is called whenever the buffer stops being empty, within `write`
    and so under the device's lock: it must not block, nor call the device.
    `on_room` is called within `consume`, or by the clock when a rate limit
    lets more through. Neither is called with the sink's own lock held.
    """

    def __init__(
        self,
        capacity: int = 1 << 20,
        policy: Literal["block", "drop"] = "block",
        *,
        total_limit: int | None = None,
        rate: int | None = None,
        burst: int | None = None,
        clock: Clock | None = None,
        on_data: Callable[[], None] | None = None,
    ) -> None:
        """Limits are in bytes, `rate` in bytes per second; None: no limit.

        `burst` is how much may come at once after a pause; by default, one
        second's worth. A rate needs a clock. Raises ValueError, naming the
        argument, for one that is out of range or makes no sense.
        """
        for name, value, least in (
            ("capacity", capacity, 1),
            ("total_limit", total_limit, 0),
            ("rate", rate, 1),
            ("burst", burst, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}, must be at least {least}")
        if policy not in ("block", "drop"):
            raise ValueError(f"policy is {policy!r}, must be 'block' or 'drop'")
        if rate is not None and clock is None:
            raise ValueError(f"rate is {rate}, which needs a clock")
        if rate is None and burst is not None:
            raise ValueError(f"burst is {burst}, which needs a rate")
        self.on_room: Callable[[], None] | None = None
        self.on_data = on_data
        self.accepted = 0
        """Bytes that went into the buffer so far."""
        self.dropped = 0
        """Bytes taken and thrown away so far."""
        self._lock = Lock()
        self._buffer = bytearray()
        self._capacity = capacity
        self._drops = policy == "drop"
        self._left = total_limit
        self._bucket = None
        if rate is not None and clock is not None:
            self._bucket = _bucket(rate, burst or rate, clock)
        self._unlimited = total_limit is None and rate is None
        self._refused = False
        self._timer_is_set = False

    def write(self, data: bytes, /) -> int:
        """Take bytes from the front of `data`; return how many, 0..len(data)."""
        size = len(data)
        with self._lock:
            buffer = self._buffer
            was_empty = not buffer
            if self._unlimited and len(buffer) + size <= self._capacity:
                buffer += data
                self.accepted += size
                taken = size
            else:
                taken = self._write_limited(data)
            stopped_being_empty = was_empty and buffer
        if stopped_being_empty and self.on_data is not None:
            self.on_data()
        return taken

    def room(self) -> int:
        """Bytes that `write` would take now and keep; only a write makes it less."""
        with self._lock:
            room = self._capacity - len(self._buffer)
            if self._left is not None:
                room = min(room, self._left)
            if self._bucket is not None:
                room = min(room, self._bucket.tokens())
            return room

    def peek(self, limit: int = 1 << 16) -> bytes:
        """The oldest bytes, at most `limit` of them. They stay in the buffer."""
        with self._lock:
            return bytes(self._buffer[:limit])

    def consume(self, count: int) -> None:
        """Forget the oldest `count` bytes: they have reached the host.

        Calls `on_room` if the device was refused. Raises ValueError unless
        `count` is 0..len(self).
        """
        with self._lock:
            if not 0 <= count <= len(self._buffer):
                raise ValueError(f"consume({count}) of {len(self._buffer)} bytes")
            del self._buffer[:count]
            tell = self._end_refusal()
        if tell is not None:
            tell()

    def __len__(self) -> int:
        """Bytes that wait in the buffer."""
        return len(self._buffer)

    # -- everything below, but for _on_tokens, wants the lock held ----------

    def _write_limited(self, data: bytes) -> int:
        size = len(data)
        wanted = size if self._left is None else min(size, self._left)
        fits = min(wanted, self._capacity - len(self._buffer))
        if self._bucket is not None:
            fits = self._bucket.take(fits)
        self._buffer += data[:fits]
        self.accepted += fits
        if self._left is not None:
            self._left -= fits
        if fits < wanted and not self._drops:
            self._refused = True
            self._set_timer()
            return fits
        self.dropped += size - fits
        return size

    def _end_refusal(self) -> Callable[[], None] | None:
        """What to call, without the lock, if there is room again."""
        if not self._refused or len(self._buffer) >= self._capacity:
            return None
        if self._bucket is not None and not self._bucket.tokens():
            return None  # the timer is set
        self._refused = False
        return self.on_room

    def _set_timer(self) -> None:
        if self._bucket is None or self._timer_is_set:
            return
        # With tokens left it is the buffer that is full, which ends in consume.
        if not self._bucket.tokens():
            self._timer_is_set = True
            self._bucket.call_when_worthwhile(self._on_tokens)

    def _on_tokens(self) -> None:
        with self._lock:
            self._timer_is_set = False
            tell = self._end_refusal()
        if tell is not None:
            tell()


def _bucket(rate: int, burst: int, clock: Clock) -> "TokenBucket":
    from .token_bucket import TokenBucket

    return TokenBucket(rate, burst, clock)
