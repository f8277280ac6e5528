"""Sink: where a device's output goes, and the one that a VMM uses."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from .buffered_sink import BufferedSink

__all__ = ["BufferedSink", "LossySink", "RoomySink", "Sink"]


class Sink(Protocol):
    """The host side of a device's output. Never blocks the caller."""

    on_room: Callable[[], None] | None
    """Called, with none of the sink's locks held, when a sink that refused a
    byte would take one again. The device that writes here sets it."""

    def write(self, data: bytes, /) -> int:
        """Take bytes from the front of `data`; return how many, 0..len(data)."""


@runtime_checkable
class LossySink(Sink, Protocol):
    """A Sink that throws away some of what it takes, and says how much."""

    dropped: int
    """Bytes taken and thrown away so far; grows only within `write`."""


@runtime_checkable
class RoomySink(Sink, Protocol):
    """A Sink that can promise."""

    def room(self) -> int:
        """Bytes that it surely takes and keeps until the next `write`, 0 or more."""
