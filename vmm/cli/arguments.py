"""The command line's parser: argparse's, with one line for an error."""

import argparse
import os
import sys
from typing import Any, Final, NoReturn

from ..foreign_text import one_line
from ..version import __version__
from .messages import tell
from .options import EXCLUSIVE, MACHINE_OPTIONS, RESTORE_OPTIONS, RUN_OPTIONS, Option

_RUN_EPILOG: Final = (
    "Exit codes: 0 reset or poweroff, 1 the VMM failed, 2 bad usage or image, "
    "33 the guest crashed, 34 it panicked, 35 it hangs, 124 timed out, "
    "130/143/129 stopped by SIGINT or Ctrl-A x / SIGTERM / SIGHUP. With --exec or "
    "--script the command's status, or 125 if it never came; with --debug-exit the "
    "guest's, which is odd, or of ours the even 4, 32, 34, 36, 124, 130/142/128. "
    "On a terminal, Ctrl-A x quits, Ctrl-A b sends a BREAK, Ctrl-A s saves where "
    "--save says, and Ctrl-A h helps."
)


class _Formatter(argparse.HelpFormatter):
    """Finds out how wide the terminal is, for which argparse imports shutil."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        try:
            width = int(columns) if columns else os.get_terminal_size(1).columns
        except (OSError, ValueError):
            width = 0
        super().__init__(prog, width=(width or 80) - 2)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other error."""
        text = f"vmm: error: {message} (see '{self.prog} --help')"
        self.exit(2, f"{one_line(text)}\n")

    def _print_message(self, message: str, file: Any = None) -> None:  # noqa: ANN401
        """What --help and --version have to say."""
        if message and file is sys.stdout:
            tell(message.removesuffix("\n"))
        else:
            super()._print_message(message, file)


def parser() -> argparse.ArgumentParser:
    """What parses the command line; it ends the process where it can't."""
    found = _Parser(
        prog="vmm",
        description="A KVM virtual machine monitor that boots Linux.",
        formatter_class=_Formatter,
    )
    found.add_argument("--version", action="version", version=f"vmm {__version__}")
    found.add_argument(
        "--debug", action="store_true", help="show a traceback for an error"
    )
    commands = found.add_subparsers(dest="subcommand", required=True, metavar="COMMAND")

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, formatter_class=_Formatter)

    run = add("run", "boot a kernel and run it to its end")
    run.description = "Boot a kernel with ttyS0 on this terminal."
    run.epilog = _RUN_EPILOG
    _add_options(run, RUN_OPTIONS)
    restore = add("restore", "go on from a machine that was saved, on the same host")
    restore.description = (
        "Go on from where the machine in DIR was saved by --save or Snapshot.save. "
        "What isn't given is as it was there, but that ttyS0 is on this terminal, and "
        "port 0xe9 goes nowhere."
    )
    restore.epilog = "Exit codes: as 'vmm run'."
    restore.add_argument("snapshot", metavar="DIR", help="the folder")
    _add_options(restore, RESTORE_OPTIONS)
    doctor = add(
        "doctor", "tell what KVM this host has, what an image is, or a machine has"
    )
    doctor.add_argument("image", metavar="IMAGE", nargs="?", help="a kernel image")
    doctor.add_argument("--json", action="store_true", help="for scripts")
    doctor.add_argument(
        "--machine",
        action="store_true",
        help="what a machine has that is run with the options below: devices, slots, "
        "interrupts, addresses",
    )
    _add_options(doctor, MACHINE_OPTIONS)
    return found


def _add_options(
    parser: argparse.ArgumentParser, groups: dict[str, list[Option]]
) -> None:
    for title, options in groups.items():
        group = parser.add_argument_group(title)
        one: Any = None
        for flag, settings in options:
            if flag in EXCLUSIVE:
                one = one or group.add_mutually_exclusive_group()
            target = one if flag in EXCLUSIVE else group
            told = dict(settings)
            if "type" in told:
                told["type"] = _converter(told["type"])
            if flag == "--debug":  # which may stand before `run`, too
                told["default"] = argparse.SUPPRESS
            target.add_argument(flag, **told)


def _converter(convert: Any) -> Any:  # noqa: ANN401 - argparse's
    """One whose ValueError is shown as it is, where it is ours."""
    if convert in (int, float):  # argparse has words for these
        return convert

    def convert_or_say(text: str) -> object:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert_or_say
