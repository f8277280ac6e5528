"""The host's terminal while a command inside the machine has it."""

from __future__ import annotations

import os
import termios
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def terminals() -> list[bool]:
    """Tell which of stdin, stdout, stderr the command gets as a terminal.

    None unless both stdin and stdout are one here: a lone one serves nobody.
    """
    tty_like = [os.isatty(fd) for fd in (0, 1, 2)]
    return tty_like if tty_like[0] and tty_like[1] else [False] * 3


def window_size() -> list[int]:
    """Return the rows and columns of the terminal on stdout, or 24 by 80."""
    try:
        size = os.get_terminal_size(1)
    except OSError:
        return [24, 80]
    return [size.lines, size.columns]


@contextmanager
def raw_terminal() -> Iterator[None]:
    """Put the terminal on stdin into raw mode; restore it on every way out."""
    saved = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)
