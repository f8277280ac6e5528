"""RegexProcess: searches that may take for ever, where they can be ended.

`re` holds the GIL for as long as it looks, and can't be interrupted: a pattern that
backtracks, over what a guest has chosen to print, would stop every thread of ours.
"""

import marshal
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final

from ..errors import VmmError
from .found import IsOver, RemoteMatch, SearchAborted
from .regex_worker import ASKER, HEAD, HELLO, Wanted

PROGRAM: Final = os.path.join(os.path.dirname(__file__), "regex_worker.py")
START_S: Final = 60  # for it to start, on the slowest host
LEAST_S: Final = 1.0  # that it has for each question, however late it is
LOOK_MS: Final = 20  # between two looks whether it has taken too long


class RegexProcess:
    """One process; one question at a time."""

    def __init__(self) -> None:
        """Start it. Raises VmmError."""
        with ExitStack() as theirs, ExitStack() as ours:
            try:
                to_it, self._ask = _pipe(theirs, ours)
                self._answer, from_it = _pipe(ours, theirs)
                alive, _ = _pipe(theirs, ours)  # until we close it, or die
                # No signal of a terminal reaches it; it ends when its input does.
                self._pid = os.posix_spawn(
                    sys.executable,
                    [sys.executable, "-I", "-S", PROGRAM],
                    os.environ,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, to_it, 0),
                        (os.POSIX_SPAWN_DUP2, from_it, 1),
                        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                        (os.POSIX_SPAWN_DUP2, alive, ASKER),
                    ],
                    setpgroup=0,
                    setsigmask=(),
                    setsigdef=(signal.SIGIO,),
                )
            except OSError as error:
                raise VmmError(
                    "expect: the process that looks for regexes can't be started: "
                    f"{error.strerror}"
                ) from None
            self._pipes = ours.pop_all()
        os.set_blocking(self._ask, False)
        try:
            self._await_hello()
        except BaseException:
            self.close()
            raise

    def _await_hello(self) -> None:
        end = time.monotonic() + START_S
        try:
            hello = self._receive(len(HELLO), lambda: time.monotonic() > end)
        except (EOFError, SearchAborted):
            hello = b""
        if hello != HELLO:
            raise VmmError(
                f"expect: {sys.executable!r} doesn't start the process that looks for "
                "regexes"
            )

    def first_match(
        self, wanted: Sequence[Wanted], text: bytes, is_over: IsOver
    ) -> tuple[RemoteMatch, int] | None:
        """As regex_worker's. Raises SearchAborted as soon as `is_over`, and VmmError;
        no more can be asked then."""
        asked = [(regex.pattern, regex.flags, start) for regex, start in wanted]
        question = marshal.dumps((asked, text))
        soonest = time.monotonic() + LEAST_S

        def is_late() -> bool:
            return time.monotonic() > soonest and is_over()

        try:
            self._send(HEAD.pack(len(question)) + question, is_late)
            (size,) = HEAD.unpack(self._receive(HEAD.size, is_late))
            found: Any = marshal.loads(self._receive(size, is_late))
        except (BrokenPipeError, EOFError):
            raise VmmError(
                "expect: the process that looks for regexes has died"
            ) from None
        if found is None:
            return None
        index, spans = found
        return RemoteMatch(wanted[index][0], text, spans), index

    def _send(self, data: bytes, is_over: IsOver) -> None:
        view = memoryview(data)
        while view:
            _await(self._ask, select.POLLOUT, is_over)
            with suppress(BlockingIOError):
                view = view[os.write(self._ask, view) :]

    def _receive(self, size: int, is_over: IsOver) -> bytes:
        data = b""
        while len(data) < size:
            _await(self._answer, select.POLLIN, is_over)
            more = os.read(self._answer, size - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def close(self) -> None:
        """End it, whatever it is at. To be called once."""
        self._pipes.close()
        with suppress(ChildProcessError):  # somebody waits for all children
            if os.waitpid(self._pid, os.WNOHANG) == (0, 0):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """Its ends, and who closes them."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends


def _await(fd: int, event: int, is_over: IsOver) -> None:
    poller = select.poll()
    poller.register(fd, event)
    while not poller.poll(LOOK_MS):
        if is_over():
            raise SearchAborted


class RegexProcesses:
    """Those of one console: started when they are needed, and kept for the next time.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[RegexProcess] = []
        self._closed = False

    def first_match(
        self, wanted: Sequence[Wanted], text: bytes, is_over: IsOver
    ) -> tuple[RemoteMatch, int] | None:
        """As RegexProcess's; whatever it raises, the next call finds a process."""
        with self._lock:
            process = self._idle.pop() if self._idle else None
        process = process or RegexProcess()
        is_well = False
        try:
            found = process.first_match(wanted, text, is_over)
            is_well = True
        finally:
            with self._lock:
                is_well &= not self._closed
                if is_well:
                    self._idle.append(process)
            if not is_well:
                process.close()
        return found

    def close(self) -> None:
        """End them all. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for process in idle:
            process.close()
