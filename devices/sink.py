"""Sink: where a device's output goes, the one that a VMM uses, and one for files."""

from collections.abc import Callable
from io import RawIOBase, TextIOBase
from typing import Protocol, runtime_checkable

from .buffered_sink import BufferedSink

__all__ = [
    "BinaryFile",
    "BufferedSink",
    "FileSink",
    "LossySink",
    "RoomySink",
    "Sink",
    "as_sink",
]


@runtime_checkable
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


class BinaryFile(Protocol):
    """Anything to write bytes to."""

    def write(self, data: bytes, /) -> int | None:
        """Write; how many bytes, None for all, or None for a raw file that is full."""


class FileSink:
    """A Sink that writes through to a binary file, and flushes it, within `write`.

    So it blocks the caller for as long as the file does, and what the file raises
    passes through, the bytes being lost: right for a chip in a test or a program of
    its own. A VMM has BufferedSink. What a non-blocking file has no room for is
    thrown away, for nobody would tell when there is room.
    """

    def __init__(self, file: BinaryFile) -> None:
        self.on_room: Callable[[], None] | None = None  # never called: it never refuses
        self.dropped = 0
        """Bytes thrown away so far."""
        self._file = file
        self._is_raw = isinstance(file, RawIOBase)
        self._flush = getattr(file, "flush", None)

    def write(self, data: bytes, /) -> int:
        """Write all of `data`, in pieces where the file takes no more at once."""
        left = data
        while left:
            taken = self._file.write(left)
            if taken is None:
                taken = 0 if self._is_raw else len(left)
            if taken == 0:
                self.dropped += len(left)
                break
            left = left[taken:]
        if self._flush is not None:
            self._flush()
        return len(data)


def as_sink(out: Sink | BinaryFile) -> Sink:
    """`out`, if it is a Sink, or a FileSink for it.

    Raises TypeError for a text file, and for what has no `write`.
    """
    if isinstance(out, Sink):
        return out
    if isinstance(out, TextIOBase):
        raise TypeError("out is a text file: its .buffer takes bytes")
    if not callable(getattr(out, "write", None)):
        raise TypeError(f"out: {type(out).__name__} has no write()")
    return FileSink(out)
