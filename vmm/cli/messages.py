"""What `vmm` says to people, on stderr, and what it tells them on stdout."""

import os
import sys

from ..errors import VmmError
from ..foreign_text import one_line, printable


def say(message: str) -> None:
    """A line of our own on stderr."""
    show(f"vmm: {one_line(message)}\n")


def show(text: str) -> None:
    """Text as it is on stderr; that nobody can have it changes no run.

    Where stderr is closed it has no file, and print would take stdout's.
    """
    if sys.stderr is None:
        return
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except OSError:  # nobody listens any more, or the disk is full
        return


def tell(text: str) -> None:
    """What was asked for, on stdout, where a reader may leave when he has enough.

    Raises VmmError if it can't be written.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # Or Python would try again to write the rest at its end.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        if not isinstance(error, BrokenPipeError):
            raise VmmError(f"stdout: {error.strerror}") from None


def show_traceback(error: Exception | None) -> None:
    """For --debug: how it came to `error`."""
    if error is not None:
        import traceback

        text = "".join(traceback.format_exception(error))
        show(printable(text))
