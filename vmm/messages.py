"""What `vmm` says to people, on stderr."""

import sys

from .foreign_text import one_line, printable


def say(message: str) -> None:
    """A line on stderr."""
    try:
        print(f"vmm: {one_line(message)}", file=sys.stderr, flush=True)
    except OSError:  # nobody listens any more
        return


def show_traceback(error: Exception | None) -> None:
    """For --debug: how it came to `error`."""
    if error is not None:
        import traceback

        text = "".join(traceback.format_exception(error))
        print(printable(text), end="", file=sys.stderr)
