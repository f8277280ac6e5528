"""Signal handlers for a while, on the main thread."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Have signals handled within the `with` block; ignored ones stay so.

    A shell ignores them for what `nohup` starts, and a script for its jobs.
    """
    chosen = {
        number: handler
        for number, handler in handlers.items()
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    before = {number: signal.getsignal(number) for number in chosen}
    _set(chosen)
    try:
        yield
    finally:
        _set(before)


def _set(handlers: Mapping[int, object]) -> None:
    """Change them while none of them can come.

    Python calls a handler some time after the signal. One whose handler is no function
    any more by then is reported with a traceback ("ignored due to race condition").
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, handlers)
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
