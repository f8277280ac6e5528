"""Guardian: undoes on the host what a VMM that was killed can't undo itself.

SIGKILL leaves no time to restore a terminal or to remove a socket. A child
process does: it waits on a pipe whose other end dies with us.
"""

import marshal
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Final, Self

from ..errors import VmmError
from ..installation import ROOT

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
_PIPE: Final = 3  # what a new interpreter listens to
_PROGRAM: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from vmm.console import guardian; "
    "guardian.stand_by(*sys.argv[2:])"
)


class Guardian(AbstractContextManager["Guardian"]):
    """Calls `undo` with what it was told last, if this process dies, in its place.

    Nothing is undone before it was told something, nor when the `with` block is left
    in good order. `undo` must not raise; the child it runs in has a session of its own,
    so that whoever kills our process group, or a whole terminal's, leaves it alone.
    Where there are threads `undo` is a function of a module, and of our descriptors it
    has the standard streams alone. Raises VmmError if there can be no child.
    """

    def __init__(self, undo: Callable[..., None]) -> None:
        self._undo = undo

    def __enter__(self) -> Self:
        ours, self._pipe = os.pipe()
        start = self._fork if threading.active_count() == 1 else self._spawn
        try:
            self._child = start(ours)
        except OSError as error:
            os.close(self._pipe)
            raise VmmError(f"guardian: no child: {error.strerror}") from None
        finally:
            os.close(ours)
        return self

    def _fork(self, pipe: int) -> int:
        ready, started = os.pipe()
        sys.stdout.flush()
        # Blocked before the fork, or one might end the child before it could.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_A_TERMINAL)
        try:
            child = os.fork()
            if child == 0:
                os.close(self._pipe)
                os.close(ready)
                self._live(pipe, started)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(started)
        os.read(ready, 1)  # until it is out of our process group
        os.close(ready)
        return child

    def _spawn(self, pipe: int) -> int:
        """A new interpreter: a fork of one thread would find the others' locks held.

        And it would keep each descriptor open that we close.
        """
        undo = self._undo
        program = [sys.executable, "-I", "-S", "-c", _PROGRAM]
        return os.posix_spawn(
            sys.executable,
            [*program, ROOT, undo.__module__, undo.__qualname__],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, pipe, _PIPE)],
            setsid=True,
            setsigmask=(),
        )

    def tell(self, *what: int | str | list[Any]) -> None:
        """Undo this instead of what was told before: numbers, text, lists of them.

        Without arguments there is nothing to undo any more. From any thread, but one at
        a time.
        """
        with suppress(BrokenPipeError):  # somebody has killed the child
            os.write(self._pipe, marshal.dumps(what))

    def _live(self, pipe: int, started: int) -> None:
        """The child's whole life. Never returns."""
        try:
            os.setsid()
            _take_name()
            os.close(started)
            self.listen(pipe)
        finally:
            os._exit(0)

    def listen(self, pipe: int) -> None:
        """In the child: undo what was told last, unless there is a word of farewell."""
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


def _take_name() -> None:
    with suppress(OSError), open("/proc/self/comm", "wb") as name:
        name.write(_NAME)


def stand_by(module: str, undo: str) -> None:
    """The whole life of a child that is an interpreter of its own."""
    import importlib  # which the others don't need

    _take_name()
    Guardian(getattr(importlib.import_module(module), undo)).listen(_PIPE)
