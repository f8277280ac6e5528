"""How large our terminal is, for a guest whose console is on it."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..event_loop import READ, EventLoop
from ..eventfd import EventFd
from .signals import handled


@contextmanager
def followed(loop: EventLoop, resize: Callable[[int, int], None]) -> Iterator[None]:
    """Call `resize` with the columns and rows of terminal 0, now and at each change.

    On the loop's thread, which isn't to run yet; a signal's handler could come into the
    locks of whoever it interrupts. For the main thread.
    """
    event = EventFd()

    def tell() -> None:
        event.drain()
        with suppress(OSError):  # it was hung up
            resize(*os.get_terminal_size(0))

    loop.watch(event.fd, READ, tell)
    try:
        with handled({signal.SIGWINCH: lambda *_: event.signal()}):
            event.signal()
            yield
    finally:
        loop.forget(event.fd, event.close)
