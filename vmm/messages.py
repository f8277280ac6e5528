"""What `vmm` says to people, on stderr."""

import sys


def say(message: str) -> None:
    """A line on stderr."""
    try:
        print(f"vmm: {message}", file=sys.stderr, flush=True)
    except OSError:  # nobody listens any more
        return


def show_traceback(error: Exception | None) -> None:
    """For --debug: how it came to `error`."""
    if error is not None:
        import traceback

        traceback.print_exception(error)
