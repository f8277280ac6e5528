"""The user's terminal: raw while the guest has it, and the Ctrl-A commands."""

import os
import signal
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from .guardian import Guardian
from .signals import handled

ESCAPE: Final = 0x01  # Ctrl-A
HELP: Final = (
    "Ctrl-A x  {x}\r\n"
    "Ctrl-A h  this help\r\n"
    "Ctrl-A b  send a BREAK to the guest: Linux takes the next key for SysRq\r\n"
    "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n"
)
SAVE_HELP: Final = "Ctrl-A s  save the machine, as --save says\r\n"

LOOK_S: Final = 0.25  # between two looks whether a terminal is ours again

# Fields of the list that termios.tcgetattr returns
_IFLAG: Final = 0
_LFLAG: Final = 3
_CC: Final = 6


def in_foreground(fd: int) -> bool:
    """Whether terminal `fd` is ours to read now."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # not our session's: no job control stops us
        return True


@contextmanager
def raw_terminal(fd: int) -> Iterator[bool]:
    """Pass every key of terminal `fd` on as it is; restore it on every way out.

    Output processing stays as it was. Gives False, and has done nothing, if
    `fd` is no terminal. On the main thread, whose signal handlers do the job control.
    """
    if not os.isatty(fd):
        yield False
        return
    with Guardian(_restore) as guardian, _timer_held():
        terminal = _RawTerminal(fd, guardian)
        with handled(
            {
                signal.SIGTSTP: terminal.on_stop,
                signal.SIGCONT: terminal.take,
                signal.SIGALRM: terminal.take,
            }
        ):
            terminal.take()
            try:
                yield True
            finally:
                terminal.give_back()


@contextmanager
def _timer_held() -> Iterator[None]:
    """Let somebody else's alarm clock, such as pytest-timeout's, stand still."""
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)


def _restore(fd: int, ours: list[Any], before: list[Any]) -> None:
    """Undo what we have made of the terminal, unless somebody else has changed it."""
    with suppress(termios.error):  # it was hung up: nothing to restore
        if termios.tcgetattr(fd) == ours:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


class _RawTerminal:
    """Raw while we are in the foreground, as full-screen programs have it.

    Whoever stops us finds the terminal as it was, and whoever continues us gives us one
    whose settings are his own. In the background it is the shell's: we would be stopped
    for touching it. A shell that fetches a running job back sends no signal, so we look
    now and then.
    """

    def __init__(self, fd: int, guardian: Guardian) -> None:
        self._fd = fd
        self._guardian = guardian
        self._ours: list[Any] = []
        self._before: list[Any] = []

    def take(self, *_: object) -> None:
        """Make it raw, or wait until it is ours; also as a signal's handler."""
        is_ours = in_foreground(self._fd)
        signal.setitimer(signal.ITIMER_REAL, 0 if is_ours else LOOK_S)
        if not is_ours:
            self._guardian.tell()
            return
        with suppress(termios.error):  # it was hung up
            found = termios.tcgetattr(self._fd)
            if found != self._ours:
                self._before = found
            termios.tcsetattr(self._fd, termios.TCSADRAIN, _raw(self._before))
            self._ours = termios.tcgetattr(self._fd)
            self._guardian.tell(self._fd, self._ours, self._before)

    def give_back(self) -> None:
        """Restore what it was before; in the background there is nothing to restore."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if in_foreground(self._fd):
            _restore(self._fd, self._ours, self._before)
        self._guardian.tell()

    def on_stop(self, *_: object) -> None:
        """Stop, as SIGTSTP says; SIGCONT will call `take`."""
        self.give_back()
        os.kill(os.getpid(), signal.SIGSTOP)


def _raw(attributes: list[Any]) -> list[Any]:
    raw = [*attributes[:_CC], attributes[_CC].copy()]
    raw[_IFLAG] &= ~(
        termios.BRKINT
        | termios.ICRNL
        | termios.IGNCR
        | termios.INLCR
        | termios.INPCK
        | termios.ISTRIP
        | termios.IXON
        | termios.IXOFF
    )
    raw[_LFLAG] &= ~(
        termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG
    )
    raw[_CC][termios.VMIN], raw[_CC][termios.VTIME] = 1, 0  # else a read may give none
    return raw


class EscapeFilter:
    """Takes Ctrl-A commands out of what the user types and obeys them."""

    def __init__(
        self,
        on_quit: Callable[[], None],
        on_help: Callable[[], None],
        on_break: Callable[[bytes], None],
        on_save: Callable[[], None] | None = None,
    ) -> None:
        """`on_break` is given what is for the guest before the break."""
        self._on_quit = on_quit
        self._on_help = on_help
        self._on_break = on_break
        self._on_save = on_save
        self._escaped = False

    def __call__(self, data: bytes) -> bytes:
        """What of `data` is for the guest. An unknown command is dropped.

        So is what was typed after the one that quits.
        """
        rest = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte == ESCAPE:
                    rest.append(byte)
                elif byte == ord("b"):
                    self._on_break(bytes(rest))
                    rest.clear()
                elif byte == ord("h"):
                    self._on_help()
                elif byte == ord("s") and self._on_save is not None:
                    self._on_save()
                elif byte == ord("x"):
                    self._on_quit()
                    break
            elif byte == ESCAPE:
                self._escaped = True
            else:
                rest.append(byte)
        return bytes(rest)
