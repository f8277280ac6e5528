"""Sink: where a device's output goes."""

from collections.abc import Callable
from typing import Protocol


class Sink(Protocol):
    """The host side of a device's output. Never blocks the caller."""

    on_room: Callable[[], None] | None
    """Called, with none of the sink's locks held, when a sink that refused a
    byte would take one again. The device that writes here sets it."""

    def write(self, data: bytes, /) -> int:
        """Take bytes from the front of `data`; return how many, 0..len(data)."""
