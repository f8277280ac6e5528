"""Inlet: where frames come in by a descriptor, as fast as a guest takes them."""

from typing import TYPE_CHECKING, Final

from ..event_loop import READ, EventLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..devices.clock import Clock


class Inlet:
    """Calls `tell`, by the guest's clock, when `fd` can be read; once for each `ask`.

    So nothing is read that nobody has a buffer for, and nobody turns in a circle.
    """

    def __init__(
        self, loop: EventLoop, clock: "Clock", fd: int, tell: "Callable[[], None]"
    ) -> None:
        self._loop: Final = loop
        self._clock: Final = clock
        self._fd = fd
        self._tell = tell
        self._watch()

    def ask(self) -> None:
        """It has been read to its end: tell when there is more. From any thread."""
        if self._loop.is_own_thread():
            self._watch()
        else:
            self._loop.call_soon(self._watch)

    def _watch(self) -> None:
        if self._fd >= 0:
            self._loop.watch(self._fd, READ, self._on_readable)

    def _on_readable(self) -> None:
        self._loop.unwatch(self._fd)
        self._clock.call_at(0, self._tell)

    def close(self, close: "Callable[[], None]") -> None:
        """Stop that, then `close` the descriptor. From any thread."""
        fd, self._fd = self._fd, -1
        self._loop.forget(fd, close)
