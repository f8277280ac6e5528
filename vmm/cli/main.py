"""The `vmm` command: arguments, messages for people, exit codes."""

import os
import signal
import sys
from collections.abc import Sequence

from ..devices.errors import DeviceError
from ..errors import ConfigError, VmmError
from . import plain
from .messages import say, show_traceback
from .options import Options, in_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    _open_standard_streams()
    options = Options(debug=False)
    try:
        options = _read(sys.argv[1:] if arguments is None else arguments, options)
        if options.subcommand == "doctor":
            if options.machine:
                from .machine_report import tell_machine

                return tell_machine(options)
            from .doctor import check_options, examine_and_print, run_doctor

            check_options(options)
            if options.image is not None:
                return examine_and_print(options.image, options.json)
            return run_doctor(options.json)
        from .run import run

        return run(options)
    except KeyboardInterrupt:
        return _own_exit_code(128 + signal.SIGINT, options)
    except Exception as error:  # if ours: still one line, and nothing left behind
        return _own_exit_code(_report(error, options.debug), options)


def _read(arguments: Sequence[str], options: Options) -> Options:
    """Ends the process where they can't be read, or ask for help."""
    options_of_run = plain.read(arguments)
    if options_of_run is not None:
        return options_of_run
    from .arguments import parser

    return parser().parse_args(arguments, options)


def _own_exit_code(code: int, options: Options) -> int:
    """One that nobody takes for the status of a guest, if one may run."""
    if getattr(options, "subcommand", "") == "doctor":
        return code
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
