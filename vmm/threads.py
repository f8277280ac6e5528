"""Threads of ours, which leave the process's signals to others."""

import signal
import threading
import time
from collections.abc import Callable
from typing import Final

from .errors import VmmError
from .kvm._libc import KICK_SIGNAL, swap_signal_mask

# What is for one thread alone: its own faults, and our kick.
_OWN: Final = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
    KICK_SIGNAL,
}

# Between two looks of who waits. CPython looks for a signal before it goes to sleep,
# not as it does: one that comes in between would wait for as long as that lasts.
LOOK_S: Final = 1.0

_OTHERS: Final = sum(1 << number - 1 for number in signal.valid_signals() - _OWN)


def start(thread: threading.Thread) -> None:
    """Start a thread that no signal goes to which is sent to the process.

    Python's handlers run on the main thread, which sleeps on if another one takes
    the signal: the kernel wakes it, but whoever is first has it, and a vCPU often is.
    One Ctrl-C in 25 was lost like that on a PVM host. A program that a device starts
    from such a thread inherits what is blocked. Raises VmmError if there can't be
    another thread.
    """
    # Blocked before, as the thread inherits it; a signal that comes now waits.
    before = block_signals()
    try:
        thread.start()
    except RuntimeError as error:
        raise VmmError(f"{thread.name}: {error}") from error
    finally:
        swap_signal_mask(signal.SIG_SETMASK, before)


def block_signals() -> int:
    """Leave signals to other threads, from here on; returns the mask of before.

    For a thread that somebody else has started. Its children inherit it.
    """
    return swap_signal_mask(signal.SIG_BLOCK, _OTHERS)


def nap(condition: threading.Condition, timeout: float | None = None) -> bool:
    """As `condition.wait`, but not for long, for who has a loop around it."""
    return condition.wait(LOOK_S if timeout is None else min(timeout, LOOK_S))


def wait_for(
    condition: threading.Condition,
    holds: Callable[[], object],
    timeout: float | None = None,
) -> bool:
    """As `condition.wait_for`, but a signal is served within LOOK_S."""
    end = None if timeout is None else time.monotonic() + timeout
    while not holds():
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            return False
        nap(condition, left)
    return True
