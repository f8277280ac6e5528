"""The user's terminal: raw while the guest has it, and the Ctrl-A commands."""

import os
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from .guardian import Guardian

ESCAPE: Final = 0x01  # Ctrl-A
HELP: Final = (
    "Ctrl-A x  quit the VMM\r\n"
    "Ctrl-A h  this help\r\n"
    "Ctrl-A b  send a BREAK to the guest: Linux takes the next key for SysRq\r\n"
    "Ctrl-A Ctrl-A  send Ctrl-A to the guest\r\n"
)

# Fields of the list that termios.tcgetattr returns
_IFLAG: Final = 0
_LFLAG: Final = 3


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
    `fd` is no terminal.
    """
    if not os.isatty(fd):
        yield False
        return
    before = termios.tcgetattr(fd)

    def restore() -> None:
        with suppress(termios.error):  # it was hung up: nothing to restore
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    with Guardian(restore):
        termios.tcsetattr(fd, termios.TCSADRAIN, _raw(before))
        yield True


def _raw(attributes: list[Any]) -> list[Any]:
    raw = attributes.copy()
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
    return raw


class EscapeFilter:
    """Takes Ctrl-A commands out of what the user types and obeys them."""

    def __init__(
        self,
        on_quit: Callable[[], None],
        on_help: Callable[[], None],
        on_break: Callable[[bytes], None],
    ) -> None:
        """`on_break` is given what is for the guest before the break."""
        self._on_break = on_break
        self._commands = {ord("x"): on_quit, ord("h"): on_help}
        self._escaped = False

    def __call__(self, data: bytes) -> bytes:
        """What of `data` is for the guest. An unknown command is dropped."""
        rest = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte == ESCAPE:
                    rest.append(byte)
                elif byte == ord("b"):
                    self._on_break(bytes(rest))
                    rest.clear()
                elif byte in self._commands:
                    self._commands[byte]()
            elif byte == ESCAPE:
                self._escaped = True
            else:
                rest.append(byte)
        return bytes(rest)
