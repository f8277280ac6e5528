"""The `vmm` command: arguments, messages for people, exit codes."""

import argparse
import os
import signal
from collections.abc import Sequence

from ..devices.errors import DeviceError
from ..errors import ConfigError, VmmError
from .arguments import in_options, parser
from .messages import say, show_traceback


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    _open_standard_streams()
    options = argparse.Namespace(debug=False)
    try:
        parser().parse_args(arguments, options)
        if options.subcommand == "doctor":
            from .doctor import examine_and_print, run_doctor

            if options.image is not None:
                return examine_and_print(options.image, options.json)
            return run_doctor(options.json)
        from .run import run

        return run(options)
    except KeyboardInterrupt:
        return _own_exit_code(128 + signal.SIGINT, options)
    except Exception as error:  # if ours: still one line, and nothing left behind
        return _own_exit_code(_report(error, options.debug), options)


def _own_exit_code(code: int, options: argparse.Namespace) -> int:
    """One that nobody takes for the status of a guest."""
    from ..result import told_apart
    from .run import passed_on

    return told_apart(code, **passed_on(options))


def _report(error: Exception, debug: bool) -> int:
    if debug:
        show_traceback(error)
    known = isinstance(error, (VmmError, DeviceError))
    name = "" if known else f"{type(error).__name__}: "
    text = in_options(str(error)) if isinstance(error, ConfigError) else str(error)
    say(f"error: {name}{text}")
    return getattr(error, "exit_code", 1)


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed.

    A descriptor that we open would take its number, and be taken for it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: fd
