"""Guardian: undoes on the host what a VMM that was killed can't undo itself.

SIGKILL leaves no time to restore a terminal or to remove a socket. A child
process does: it waits on a pipe whose other end dies with us.
"""

import marshal
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, Self

_FROM_A_TERMINAL: Final = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGTSTP,
    signal.SIGTTOU,
)
_FAREWELL: Final = None
_NAME: Final = b"guardian"  # not ours, or `killall vmm` would end it, too


class Guardian(AbstractContextManager["Guardian"]):
    """Calls `undo` with what it was told last, if this process dies, in its place.

    Nothing is undone before it was told something, nor when the `with` block is left
    in good order. To be entered before any thread starts, since it forks. `undo` must
    not raise; the child it runs in has a session of its own, so that whoever kills our
    process group, or a whole terminal's, leaves it alone.
    """

    def __init__(self, undo: Callable[..., None]) -> None:
        self._undo = undo

    def __enter__(self) -> Self:
        ours, self._pipe = os.pipe()
        ready, started = os.pipe()
        sys.stdout.flush()
        # Blocked before the fork, or one might end the child before it could.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_A_TERMINAL)
        self._child = os.fork()
        if self._child == 0:
            os.close(self._pipe)
            os.close(ready)
            self._watch(ours, started)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(ours)
        os.close(started)
        os.read(ready, 1)  # until it is out of our process group
        os.close(ready)
        return self

    def tell(self, *what: int | str | list[Any]) -> None:
        """Undo this instead of what was told before: numbers, text, lists of them.

        Without arguments there is nothing to undo any more. From any thread, but one at
        a time.
        """
        with suppress(BrokenPipeError):  # somebody has killed the child
            os.write(self._pipe, marshal.dumps(what))

    def _watch(self, pipe: int, started: int) -> None:
        """The child's whole life. Never returns."""
        try:
            os.setsid()
            with suppress(OSError), open("/proc/self/comm", "wb") as name:
                name.write(_NAME)
            os.close(started)
            self._listen(pipe)
        finally:
            os._exit(0)

    def _listen(self, pipe: int) -> None:
        told: tuple[object, ...] = ()
        with open(pipe, "rb") as words:
            while True:
                try:
                    word = marshal.load(words)
                except EOFError:  # no word of farewell: it was killed
                    break
                if word is _FAREWELL:
                    return
                told = word
        if told:
            self._undo(*told)

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            os.write(self._pipe, marshal.dumps(_FAREWELL))
        os.close(self._pipe)
        with suppress(ChildProcessError):  # SIGCHLD is ignored: no zombie
            os.waitpid(self._child, 0)
