"""What the `vmm` command takes: the options, in groups, and what they mean.

An option that isn't given is None, so that the defaults are MachineConfig's. The
name under which it is kept (`dest`) is that of the field it is for.
"""

import argparse
import os
import sys
from typing import Any, Final, NoReturn

from ..config import BOOT_PROTOCOLS, DEFAULT_CMDLINE, POLICIES, QUIRKS
from ..console.config import PLAIN
from ..foreign_text import one_line
from ..place import Place, parse_place
from ..version import __version__
from .messages import tell


def _place(text: str, plain: tuple[str, ...] = ()) -> Place:
    try:
        return parse_place(text, plain)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _serial(text: str) -> Place:
    if text == "capture":  # nobody could read it
        raise argparse.ArgumentTypeError("capture is for programs: see vmm.Machine")
    return _place(text, PLAIN)


def _port(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0x501, 1281") from None


def _mode(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no mode: 660, 0600") from None


def _policy(flag: str, verb: str) -> "_Option":
    return flag, {"choices": POLICIES, "help": f"when the guest {verb} (exit)"}


_Option = tuple[str, dict[str, Any]]

RUN_OPTIONS: Final[dict[str, list[_Option]]] = {
    "boot": [
        (
            "--kernel",
            {
                "metavar": "P",
                "help": "bzImage, ELF or multiboot (default: our tiny guest, on a PVM "
                "host the one that runs in ring 3)",
            },
        ),
        ("--initrd", {"metavar": "P", "help": "initramfs or initrd image"}),
        (
            "--cmdline",
            {"metavar": "S", "help": f"kernel command line ({DEFAULT_CMDLINE!r})"},
        ),
        ("--append", {"metavar": "S", "help": "add S to the command line"}),
        (
            "--boot-protocol",
            {
                "choices": BOOT_PROTOCOLS,
                "help": "how the kernel is entered; 'vmm doctor IMAGE' tells what it "
                "offers (auto)",
            },
        ),
        (
            "--module",
            {
                "metavar": "FILE",
                "dest": "modules",
                "action": "append",
                "help": "for PVH and multiboot, after the initrd; may be repeated; "
                "'FILE STRING' as one word: all of it is the string that the kernel "
                "reads",
            },
        ),
    ],
    "machine": [
        ("--memory", {"metavar": "SIZE", "help": "RAM: 512M, 2G (128M)"}),
        ("--cpus", {"metavar": "N", "type": int, "help": "virtual CPUs (1)"}),
        (
            "--no-acpi",
            {
                "dest": "acpi",
                "action": "store_false",
                "default": None,
                "help": "no ACPI tables, only the MP table; the guest can't power off",
            },
        ),
        (
            "--debugcon",
            {
                "metavar": "WHERE",
                "type": _serial,
                "help": "where port 0xe9 goes, QEMU's isa-debugcon: stdio, null, "
                "file:P or unix:P",
            },
        ),
        (
            "--quirks",
            {
                "choices": QUIRKS,
                "help": "work-arounds for this kind of KVM; 'vmm doctor' tells (auto)",
            },
        ),
    ],
    "console": [
        (
            "--serial",
            {
                "metavar": "WHERE",
                "type": _serial,
                "help": "ttyS0: stdio, null, file:P, or unix:P to listen on (stdio; "
                "with --capture null)",
            },
        ),
        (
            "--tee",
            {
                "metavar": "WHERE",
                "type": _place,
                "action": "append",
                "help": "a copy of ttyS0's output, too: file:P or unix:P; may be "
                "repeated",
            },
        ),
        (
            "--socket-mode",
            {
                "metavar": "MODE",
                "type": _mode,
                "help": "of the files of unix:P, octal: who may connect (600)",
            },
        ),
        (
            "--serial-policy",
            {
                "choices": ("block", "drop"),
                "help": "a slow reader holds the guest, or loses output (block)",
            },
        ),
        (
            "--serial-buffer",
            {"metavar": "SIZE", "help": "what a slow reader may be behind (1M)"},
        ),
        (
            "--serial-limit",
            {
                "metavar": "SIZE",
                "help": "drop console output after SIZE (1G where it goes to a file)",
            },
        ),
        (
            "--serial-rate",
            {"metavar": "SIZE", "help": "at most SIZE of console output a second"},
        ),
    ],
    "command": [
        (
            "--exec",
            {
                "metavar": "CMD",
                "dest": "command",
                "help": "run 'cmd args' in the guest in place of its init; its status "
                "is ours",
            },
        ),
        ("--script", {"metavar": "FILE", "help": "run this file of the host's"}),
        (
            "--add",
            {
                "metavar": "HOST[:GUEST]",
                "dest": "files",
                "action": "append",
                "help": "put a file or directory into the initramfs, in / or as GUEST",
            },
        ),
        (
            "--capture",
            {
                "action": "store_const",
                "const": "stdout",
                "help": "the command's output alone comes to stdout, by ttyS1",
            },
        ),
    ],
    "outcome": [
        (
            "--timeout",
            {"metavar": "S", "type": float, "help": "end with 124 after S seconds"},
        ),
        _policy("--on-reset", "resets"),
        _policy("--on-panic", "panics"),
        _policy("--on-crash", "crashes"),
        (
            "--hang",
            {
                "metavar": "S",
                "dest": "hang_s",
                "type": float,
                "help": "end with 35 after S seconds without console output or exits",
            },
        ),
        (
            "--debug-exit",
            {
                "metavar": "PORT",
                "type": _port,
                "nargs": "?",
                "const": 0x501,
                "help": "end when the guest writes to PORT (0x501): exit code and "
                "guest_status are then value << 1 | 1, as with QEMU's isa-debug-exit",
            },
        ),
        (
            "--symbols",
            {
                "metavar": "FILE",
                "help": "System.map or vmlinux that names addresses in a crash report",
            },
        ),
    ],
    "reports": [
        ("--result", {"metavar": "FILE", "help": "write how it ended to FILE as JSON"}),
        (
            "--profile",
            {
                "metavar": "FILE",
                "help": "write where the time went: a page to FILE.html, or to "
                "FILE.json a trace for ui.perfetto.dev; the run loop is the one in "
                "Python then, and slower",
            },
        ),
        ("--quiet", {"action": "store_true", "help": "no messages of ours but errors"}),
        (
            "--debug",
            {
                "action": "store_true",
                "default": argparse.SUPPRESS,
                "help": "show a traceback for an error",
            },
        ),
    ],
}
_EXCLUSIVE: Final = ("--exec", "--script")

_RUN_EPILOG: Final = (
    "Exit codes: 0 reset or poweroff, 1 the VMM failed, 2 bad usage or image, "
    "33 the guest crashed, 34 it panicked, 35 it hangs, 124 timed out, "
    "130/143/129 stopped by SIGINT or Ctrl-A x / SIGTERM / SIGHUP. With --exec or "
    "--script the command's status, or 125 if it never came; with --debug-exit the "
    "guest's, which is odd, or of ours the even 4, 32, 34, 36, 124, 130/142/128. "
    "On a terminal, Ctrl-A x quits, Ctrl-A b sends a BREAK and Ctrl-A h helps."
)


def in_options(message: str) -> str:
    """A ConfigError's message, with the option's name in place of the field's."""
    field, colon, rest = message.partition(": ")
    for flag, settings in (item for group in RUN_OPTIONS.values() for item in group):
        name = flag.removeprefix("--")
        if field == settings.get("dest", name.replace("-", "_")):
            return f"{name}{colon}{rest}"
    return message


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

    _add_run(add("run", "boot a kernel and run it to its end"))
    doctor = add("doctor", "tell what KVM this host has, or what an image is")
    doctor.add_argument("image", metavar="IMAGE", nargs="?", help="a kernel image")
    doctor.add_argument("--json", action="store_true", help="for scripts")
    return found


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = "Boot a kernel with ttyS0 on this terminal."
    parser.epilog = _RUN_EPILOG
    for title, options in RUN_OPTIONS.items():
        group = parser.add_argument_group(title)
        one: Any = None
        for flag, settings in options:
            if flag in _EXCLUSIVE:
                one = one or group.add_mutually_exclusive_group()
            target = one if flag in _EXCLUSIVE else group
            target.add_argument(flag, **settings)
