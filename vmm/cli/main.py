"""The `vmm` command: arguments, messages for people, exit codes."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..config import BOOT_PROTOCOLS, DEFAULT_CMDLINE, POLICIES, QUIRKS
from ..devices.errors import DeviceError
from ..errors import VmmError
from ..foreign_text import one_line
from ..version import __version__
from .messages import say, show_traceback, tell


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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vmm",
        description="A KVM virtual machine monitor that boots Linux.",
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version=f"vmm {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="show a traceback for an error"
    )
    commands = parser.add_subparsers(
        dest="subcommand", required=True, metavar="COMMAND"
    )

    def add(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, formatter_class=_Formatter)

    _add_run(add("run", "boot a kernel and run it to its end"))
    doctor = add("doctor", "tell what KVM this host has, or what an image is")
    doctor.add_argument("image", metavar="IMAGE", nargs="?", help="a kernel image")
    doctor.add_argument("--json", action="store_true", help="for scripts")
    return parser


def _serial(text: str) -> str:
    if text == "capture":  # nobody could read it
        raise argparse.ArgumentTypeError("capture is for programs: see vmm.Machine")
    return text


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


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = "Boot a kernel with ttyS0 on this terminal."
    parser.epilog = (
        "Exit codes: 0 reset or poweroff, 1 the VMM failed, 2 bad usage or image, "
        "33 the guest crashed, 34 it panicked, 35 it hangs, 124 timed out, "
        "130/143/129 stopped by SIGINT or Ctrl-A x / SIGTERM / SIGHUP. With --exec or "
        "--script the command's status, or 125 if it never came; with --debug-exit the "
        "guest's, which is odd, or of ours the even 4, 32, 34, 36, 124, 130/142/128. "
        "On a terminal, Ctrl-A x quits, Ctrl-A b sends a BREAK and Ctrl-A h helps."
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show a traceback for an error",
    )
    add = parser.add_argument
    add(
        "--kernel",
        metavar="P",
        help="bzImage, ELF or multiboot (default: our tiny guest, on a PVM host the "
        "one that runs in ring 3)",
    )
    add("--initrd", metavar="P", help="initramfs or initrd image")
    add("--cmdline", metavar="S", help=f"kernel command line ({DEFAULT_CMDLINE!r})")
    add("--append", metavar="S", default="", help="add S to the command line")
    add(
        "--boot-protocol",
        choices=BOOT_PROTOCOLS,
        default="auto",
        help="how the kernel is entered; 'vmm doctor IMAGE' tells what it offers "
        "(%(default)s)",
    )
    add(
        "--module",
        metavar="FILE",
        dest="modules",
        action="append",
        default=[],
        help="for PVH and multiboot, after the initrd; may be repeated; 'FILE STRING' "
        "as one word: all of it is the string that the kernel reads",
    )
    add("--memory", metavar="SIZE", default="128M", help="RAM: 512M, 2G (%(default)s)")
    add("--cpus", metavar="N", type=int, default=1, help="virtual CPUs (%(default)s)")
    add(
        "--no-acpi",
        dest="acpi",
        action="store_false",
        help="no ACPI tables, only the MP table; the guest can't power off",
    )
    add("--timeout", metavar="S", type=float, help="end with 124 after S seconds")
    for event, verb in (("reset", "resets"), ("panic", "panics"), ("crash", "crashes")):
        add(
            f"--on-{event}",
            choices=POLICIES,
            default="exit",
            help=f"when the guest {verb} (%(default)s)",
        )
    add(
        "--hang",
        dest="hang_s",
        metavar="S",
        type=float,
        help="end with 35 after S seconds without console output or exits",
    )
    add(
        "--symbols",
        metavar="FILE",
        help="System.map or vmlinux that names addresses in a crash report",
    )
    _add_command(parser)
    add(
        "--debug-exit",
        metavar="PORT",
        type=_port,
        nargs="?",
        const=0x501,
        help="end when the guest writes to PORT (0x501): exit code and guest_status "
        "are then value << 1 | 1, as with QEMU's isa-debug-exit",
    )
    add(
        "--debugcon",
        metavar="WHERE",
        type=_serial,
        help="where port 0xe9 goes, QEMU's isa-debugcon: stdio, null, file:P or unix:P",
    )
    add(
        "--quirks",
        choices=QUIRKS,
        default="auto",
        help="work-arounds for this kind of KVM; 'vmm doctor' tells (%(default)s)",
    )
    add(
        "--serial",
        metavar="WHERE",
        type=_serial,
        help="ttyS0: stdio, null, file:P, or unix:P to listen on (stdio; with "
        "--capture null)",
    )
    add(
        "--tee",
        metavar="WHERE",
        action="append",
        default=[],
        help="a copy of ttyS0's output, too: file:P or unix:P; may be repeated",
    )
    add(
        "--socket-mode",
        metavar="MODE",
        type=_mode,
        default=0o600,
        help="of the files of unix:P, octal: who may connect (600)",
    )
    add(
        "--serial-policy",
        choices=("block", "drop"),
        default="block",
        help="a slow reader holds the guest, or loses output (%(default)s)",
    )
    add(
        "--serial-buffer",
        metavar="SIZE",
        default="1M",
        help="what a slow reader may be behind (%(default)s)",
    )
    add(
        "--serial-limit",
        metavar="SIZE",
        help="drop console output after SIZE (1G where it goes to a file)",
    )
    add("--serial-rate", metavar="SIZE", help="at most SIZE of console output a second")
    add("--result", metavar="FILE", help="write how it ended to FILE as JSON")
    add(
        "--profile",
        metavar="FILE",
        help="write where the time went: a page to FILE.html, or to FILE.json a trace "
        "for ui.perfetto.dev; the run loop is the one in Python then, and slower",
    )
    add("--quiet", action="store_true", help="no messages of ours but errors")


def _add_command(parser: argparse.ArgumentParser) -> None:
    one = parser.add_mutually_exclusive_group()
    one.add_argument(
        "--exec",
        metavar="CMD",
        dest="command",
        help="run 'cmd args' in the guest in place of its init; its status is ours",
    )
    one.add_argument("--script", metavar="FILE", help="run this file of the host's")
    parser.add_argument(
        "--add",
        metavar="HOST[:GUEST]",
        dest="files",
        action="append",
        default=[],
        help="put a file or directory into the initramfs, in / or as GUEST",
    )
    parser.add_argument(
        "--capture",
        action="store_const",
        const="stdout",
        help="the command's output alone comes to stdout, by ttyS1",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    _open_standard_streams()
    options = argparse.Namespace(debug=False)
    try:
        _parser().parse_args(arguments, options)
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
    say(f"error: {name}{error}")
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
