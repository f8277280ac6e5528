"""`vmm run --shell`: a shell in the guest, on a terminal of its own, here."""

import os
import select
import signal
import threading
from contextlib import ExitStack
from typing import Final

from ..agent.channel import STDERR, STDOUT
from ..agent.guest import PIPE
from ..agent.process import GuestProcess
from ..console.signals import handled
from ..console.terminal import HELP, EscapeFilter, raw_terminal
from ..errors import GuestEnded, VmmError
from ..machine.machine import Machine
from .messages import say, show

_READ_SIZE: Final = 4096
_SHELL: Final = "/bin/sh"
_OVER: Final = b"o"
_RESIZED: Final = b"r"


def shell_status(machine: Machine, *, quiet: bool) -> int | None:
    """Run a shell to its end; its status, as a shell tells it of a command.

    None: the guest has ended before. On a terminal it has one, too; elsewhere it reads
    what there is, and its streams are ours. Raises VmmError.
    """
    on_terminal = os.isatty(0) and os.isatty(1)
    try:
        machine.guest.wait_ready(None)
        if on_terminal:
            process = machine.guest.shell(_size())
        else:
            process = machine.guest.popen([_SHELL], stdin=PIPE)
        with process:
            _Session(machine, process, on_terminal, quiet).run()
            code = process.wait()
    except GuestEnded:
        return None
    return code if code >= 0 else 128 - code


def _size() -> tuple[int, int]:
    columns, rows = os.get_terminal_size(0)
    return rows, columns


class _Session:
    """The shell's streams: ours to it on this thread, its to ours on others.

    A byte in the pipe wakes this one: the shell has ended, or the terminal's size has
    changed, which a signal's handler must not see to itself.
    """

    def __init__(
        self, machine: Machine, process: GuestProcess, on_terminal: bool, quiet: bool
    ) -> None:
        self._machine = machine
        self._process = process
        self._on_terminal = on_terminal
        self._quiet = quiet
        self._error: Exception | None = None

    def run(self) -> None:
        """Until the shell has ended. Raises GuestEnded, VmmError, OSError."""
        with ExitStack() as stack:
            self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, self._wake)
            stack.callback(os.close, self._waker)
            keys: EscapeFilter | None = None
            if self._on_terminal and stack.enter_context(raw_terminal(0)):
                keys = EscapeFilter(
                    on_quit=lambda: self._machine.stop("Ctrl-A x"),
                    on_help=lambda: show(HELP.format(x="quit the VMM")),
                    on_break=self._machine.console.send_break,
                )
                stack.enter_context(handled({signal.SIGWINCH: self._on_resize}))
                self._process.resize(*_size())  # it may have changed just before
                if not self._quiet:
                    say("Ctrl-A x quits, Ctrl-A h helps")
            streams = [(STDOUT, 1)] if self._on_terminal else [(STDOUT, 1), (STDERR, 2)]
            for stream in streams:
                thread = threading.Thread(target=self._show, args=stream, daemon=True)
                thread.start()
                stack.callback(thread.join)  # it uses the pipe
            stack.callback(self._process.close)
            self._type_all(keys, len(streams))
            error = self._error
        if error is not None:
            raise error

    def _on_resize(self, *_: object) -> None:
        self._tell(_RESIZED)

    def _tell(self, what: bytes) -> None:
        try:
            os.write(self._waker, what)
        except BlockingIOError:
            return  # it is awake

    def _type_all(self, keys: EscapeFilter | None, streams: int) -> None:
        """Until so many have ended, or one has failed."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        poller.register(0, select.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._wake in ready:
                told = os.read(self._wake, _READ_SIZE)
                if _RESIZED in told:
                    self._process.resize(*_size())
                streams -= told.count(_OVER)
                if not streams or self._error is not None:
                    return
            if 0 in ready:
                data = os.read(0, _READ_SIZE)
                if not data:
                    poller.unregister(0)
                    self._process.end_input()
                    continue
                try:
                    self._process.write_all(data if keys is None else keys(data))
                except (BrokenPipeError, VmmError):
                    poller.unregister(0)  # the other threads see the end

    def _show(self, stream: int, fd: int) -> None:
        try:
            while data := self._process.read_some(stream, _READ_SIZE):
                while data:
                    data = data[os.write(fd, data) :]
            self._process.wait()
        except Exception as error:  # for the thread that waits
            self._error = self._error or error
        self._tell(_OVER)
