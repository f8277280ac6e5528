"""Guardian: undoes on the host what a VMM that was killed can't undo itself.

SIGKILL leaves no time to restore a terminal or to remove a socket. A child
process does: it waits on a pipe whose other end dies with us.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Final, Self

_FROM_A_TERMINAL: Final = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGTSTP,
    signal.SIGTTOU,
)


class Guardian(AbstractContextManager["Guardian"]):
    """Calls `undo` once: on leaving the `with` block, or if this process dies.

    To be entered before any thread starts, since it forks. `undo` must not
    raise and runs in the child with signals blocked that a terminal sends.
    """

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo = undo

    def __enter__(self) -> Self:
        ours, self._pipe = os.pipe()
        sys.stdout.flush()
        # Blocked before the fork, or one might end the child before it could.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_A_TERMINAL)
        self._child = os.fork()
        if self._child == 0:
            os.close(self._pipe)
            self._watch(ours)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(ours)
        return self

    def _watch(self, pipe: int) -> None:
        """The child's whole life. Never returns."""
        try:
            if not os.read(pipe, 1):  # no word of farewell: it was killed
                self._undo()
        finally:
            os._exit(0)

    def __exit__(self, *_: object) -> None:
        try:
            self._undo()
        finally:
            with suppress(BrokenPipeError):  # somebody has killed the child
                os.write(self._pipe, b"\0")
            os.close(self._pipe)
            with suppress(ChildProcessError):  # SIGCHLD is ignored: no zombie
                os.waitpid(self._child, 0)
