"""Program: a backend that is a program of the host's, which we start and end."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Final

from .. import threads
from ..errors import ConfigError, VmmError

END_S: Final = 10.0
"""For an end in good order, with what it has not written yet."""
_MOST_WORDS: Final = 4096  # bytes of what it has said last
_LAUNCHER: Final = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); "
    "signal.pthread_sigmask(signal.SIG_SETMASK, ()); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)
"""Has the program end with the thread that has started it (PR_SET_PDEATHSIG), that is,
whatever becomes of our process; and takes signals again, which our threads don't."""


def find_program(names: Sequence[str], what_for: str, packages: str) -> str:
    """The first of these names or paths that is there.

    Raises ConfigError, which says what it is for, and in which packages it is.
    """
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    program = os.path.basename(names[0])
    raise ConfigError(f"{what_for} takes {program}, which isn't here: {packages}")


class Program:
    """A BackendProgram: a new process for each connection, `starts` times at most.

    `arguments` makes its command line, with the number of a socket that it is to listen
    at, and that we are connected to before it runs: nobody else can be, and nobody
    waits for a path. It has a session of its own, lest Ctrl-C end it before the guest.
    """

    def __init__(
        self,
        name: str,
        arguments: Callable[[int], Sequence[str]],
        starts: int = 1,
        fds: Sequence[int] = (),
    ) -> None:
        """`fds` are what it has, too, by the same numbers; they stay ours."""
        self._name = name
        self._fds = fds
        self._arguments = arguments
        self._starts = starts
        self._process: _Process | None = None

    def connect(self) -> socket.socket:
        """Raises VmmError, if it can't be started, or has ended too often."""
        if self._process is not None:
            self._process.end()
            if self._starts == 0:
                raise VmmError(f"{self._name} isn't started again")
        self._starts -= 1
        with ExitStack() as undo:
            listener, ours = _connected()
            undo.callback(ours.close)
            with listener:
                fd = listener.fileno()
                arguments = self._arguments(fd)
                self._process = _Process(self._name, arguments, [fd, *self._fds])
            undo.pop_all()
        return ours

    @property
    def pid(self) -> int:
        """The process's, while there is one."""
        assert self._process is not None
        return self._process.pid

    def last_words(self) -> str:
        """What it has said last, or how it has ended."""
        return "" if self._process is None else self._process.last_words()

    def close(self) -> None:
        """End it in good order, or if that takes too long by force. Idempotent."""
        if self._process is not None:
            self._process.end()


def _connected() -> tuple[socket.socket, socket.socket]:
    """A socket that listens, and one that is connected to it. Raises VmmError."""
    with ExitStack() as undo:
        listener, ours = (socket.socket(socket.AF_UNIX) for _ in range(2))
        undo.callback(listener.close)
        undo.callback(ours.close)
        try:
            with tempfile.TemporaryDirectory(prefix="vmm-") as folder:
                _meet(listener, ours, folder)
        except OSError as error:
            raise VmmError(f"vhost-user: no socket: {error.strerror}") from None
        undo.pop_all()
    return listener, ours


def _meet(listener: socket.socket, ours: socket.socket, folder: str) -> None:
    """By a path in a folder that is ours alone, and whose name may be long."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        path = f"/proc/self/fd/{fd}/socket"
        listener.bind(path)
        listener.listen(1)
        ours.connect(path)
    finally:
        os.close(fd)


class _Process:
    """One that runs, and a thread that waits for its end; which it doesn't outlive."""

    def __init__(self, name: str, arguments: Sequence[str], fds: Sequence[int]) -> None:
        self._name = name
        self._words = b""
        self._status: int | None = None
        self._error: OSError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._is_started = threading.Event()
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
        self._thread = threading.Thread(
            target=self._keep,
            args=([*launcher, *arguments], fds),
            name=f"vmm-{name}"[:15],
            daemon=True,
        )
        threads.start(self._thread)
        self._is_started.wait()
        if self._error is not None:
            raise VmmError(f"{name}: {self._error.strerror}") from self._error

    def _keep(self, arguments: list[str], fds: Sequence[int]) -> None:
        try:
            self._process = process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=fds,
                start_new_session=True,
            )
        except OSError as error:
            self._error = error
            return
        finally:
            self._is_started.set()
        assert process.stderr is not None
        with process.stderr as words:
            while more := os.read(words.fileno(), _MOST_WORDS):
                self._words = (self._words + more)[-_MOST_WORDS:]
        self._status = process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def last_words(self) -> str:
        self._thread.join(END_S)
        words = self._words.decode(errors="replace")
        lines = [line.strip() for line in words.split("\n") if line.strip()]
        if lines:
            own = [line for line in lines if line.startswith(f"{self._name}:")]
            return own[-1] if own else f"{self._name}: {lines[-1]}"
        if self._status is None:
            return f"{self._name} has left"
        if self._status < 0:
            return f"{self._name} was ended by {signal.Signals(-self._status).name}"
        return f"{self._name} ended with status {self._status}"

    def end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._thread.is_alive():
                return
            assert self._process is not None
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            self._thread.join(END_S)
