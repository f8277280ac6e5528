"""The `vmm` command: arguments, messages for people, exit codes."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields
from types import FrameType
from typing import TYPE_CHECKING, Final, NoReturn

from . import __version__
from .config import DEFAULT_CMDLINE, MachineConfig
from .devices.errors import DeviceError
from .errors import VmmError
from .guardian import Guardian
from .machine import Machine
from .result import ExitReason, RunResult
from .result_file import check_result_path, write_result
from .terminal import HELP, EscapeFilter, in_foreground, raw_terminal

if TYPE_CHECKING:
    from .profile.recorder import Profile

_OUTCOMES: Final = {
    ExitReason.RESET: "the guest reset",
    ExitReason.POWEROFF: "the guest powered off",
    ExitReason.EXITED: "the guest's command has ended",
    ExitReason.CRASH: "the guest crashed",
    ExitReason.PANIC: "the guest panicked",
    ExitReason.HANG: "the guest hangs",
    ExitReason.TIMEOUT: "timed out",
    ExitReason.STOPPED: "stopped",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other error."""
        self.exit(2, f"vmm: error: {message} (see '{self.prog} --help')\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vmm", description="A KVM virtual machine monitor that boots Linux."
    )
    parser.add_argument("--version", action="version", version=f"vmm {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="show a traceback for an error"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="boot a kernel and run it to its end"))
    doctor = commands.add_parser("doctor", help="tell what KVM this host has")
    doctor.add_argument("--json", action="store_true", help="for scripts")
    return parser


def _serial(text: str) -> str:
    if text == "capture":  # nobody could read it
        raise argparse.ArgumentTypeError("capture is for programs: see vmm.Machine")
    return text


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = "Boot a kernel with ttyS0 on this terminal."
    parser.epilog = (
        "Exit codes: 0 reset or poweroff, 1 the VMM failed, 2 bad usage or image, "
        "33 the guest crashed, 34 it panicked, 35 it hangs, 124 timed out, "
        "130/143 stopped by SIGINT or Ctrl-A x / SIGTERM. "
        "On a terminal, Ctrl-A x quits and Ctrl-A h helps."
    )
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS)
    add = parser.add_argument
    add("--kernel", metavar="P", help="bzImage or ELF vmlinux (default: tiny guest)")
    add("--initrd", metavar="P", help="initramfs or initrd image")
    add("--cmdline", metavar="S", help=f"kernel command line ({DEFAULT_CMDLINE!r})")
    add("--append", metavar="S", default="", help="add S to the command line")
    add("--memory", metavar="SIZE", default="128M", help="RAM: 512M, 2G (%(default)s)")
    add("--cpus", metavar="N", type=int, default=1, help="virtual CPUs (%(default)s)")
    add("--timeout", metavar="S", type=float, help="end with 124 after S seconds")
    add(
        "--on-reset",
        choices=("exit", "restart"),
        default="exit",
        help="when the guest resets (%(default)s)",
    )
    add(
        "--quirks",
        choices=("auto", "none", "pvm"),
        default="auto",
        help="work-arounds for this kind of KVM; 'vmm doctor' tells (%(default)s)",
    )
    add(
        "--serial",
        metavar="WHERE",
        type=_serial,
        default="stdio",
        help="ttyS0: stdio, null, file:P, or unix:P to listen on (%(default)s)",
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    _open_standard_streams()
    options = _parser().parse_args(arguments)
    try:
        if options.command == "doctor":
            from .doctor import run_doctor

            return run_doctor(options.json)
        return _run(options)
    except (VmmError, DeviceError) as error:
        return _report(error, options.debug)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:  # ours: still one line, and nothing left behind
        return _report(error, options.debug)


def _report(error: Exception, debug: bool) -> int:
    _debug(error, debug)
    known = isinstance(error, (VmmError, DeviceError))
    name = "" if known else f"{type(error).__name__}: "
    _say(f"error: {name}{' '.join(str(error).split())}")
    return getattr(error, "exit_code", 1)


def _debug(error: Exception | None, wanted: bool) -> None:
    if wanted and error is not None:
        import traceback

        traceback.print_exception(error)


def _say(message: str) -> None:
    """A line on stderr."""
    try:
        print(f"vmm: {message}", file=sys.stderr, flush=True)
    except OSError:  # nobody listens any more
        return


def _run(options: argparse.Namespace) -> int:
    path = options.result
    if path is not None:
        check_result_path(path)
    profile = _new_profile(options)
    try:
        result, error = _run_machine(options, profile)
    except Exception as failure:
        if path is not None:
            code = getattr(failure, "exit_code", 1)
            write_result(path, RunResult(ExitReason.ERROR, code, detail=str(failure)))
        raise
    if path is not None:
        write_result(path, result)
    if profile is not None:
        from .profile.report import write_profile

        write_profile(options.profile, profile, result)
    if result.reason is ExitReason.ERROR:
        _debug(error, options.debug)
        _say(f"error: {result.detail}")
    elif not options.quiet:
        detail = f": {result.detail}" if result.detail else ""
        _say(f"{_OUTCOMES[result.reason]}{detail} ({result.wall_s:.2f} s)")
        if result.console_dropped:
            _say(f"{result.console_dropped} bytes of console output were dropped")
    return result.exit_code


def _new_profile(options: argparse.Namespace) -> "Profile | None":
    if options.profile is None:
        return None
    from .profile.recorder import Profile
    from .profile.report import check_profile_path

    check_profile_path(options.profile, options.result)
    return Profile()


def _run_machine(
    options: argparse.Namespace, profile: "Profile | None"
) -> tuple[RunResult, Exception | None]:
    chosen = vars(options)
    names = [field.name for field in fields(MachineConfig)]
    config = MachineConfig(**{name: chosen[name] for name in names})
    with ExitStack() as stack:
        # Guardians fork: before any thread starts, and before what they guard.
        if config.serial.startswith("unix:"):
            remove = _socket_remover(config.serial.removeprefix("unix:"))
            stack.enter_context(Guardian(remove))
        machine = stack.enter_context(Machine(config, profile))
        stack.enter_context(_keys_of_a_terminal(machine, options))
        stack.enter_context(_signals_stop(machine))
        for warning in () if options.quiet else machine.warnings:
            _say(f"warning: {warning}")
        machine.start()
        result = _wait(machine, options.quiet)
    return result, machine.error


@contextmanager
def _keys_of_a_terminal(
    machine: Machine, options: argparse.Namespace
) -> Iterator[None]:
    """With ttyS0 on a terminal, all keys are the guest's, but for Ctrl-A."""
    with ExitStack() as stack:
        if options.serial == "stdio" and stack.enter_context(raw_terminal(0)):
            machine.console.input_filter = EscapeFilter(
                on_quit=lambda: machine.stop("Ctrl-A x"),
                on_help=lambda: print(HELP, end="", file=sys.stderr, flush=True),
            )
            if not options.quiet:
                _say("Ctrl-A x quits, Ctrl-A h helps")
        yield


def _socket_remover(path: str) -> Callable[[], None]:
    """What removes the socket that is going to be made at `path`, and no other."""

    def identity() -> tuple[int, int] | None:
        try:
            status = os.lstat(path)
        except OSError:
            return None
        return status.st_ino, status.st_ctime_ns

    before = identity()

    def remove() -> None:
        if identity() not in (before, None):
            with suppress(FileNotFoundError):
                os.unlink(path)

    return remove


@contextmanager
def _signals_stop(machine: Machine) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the run in good order."""

    def stop(number: int, _: FrameType | None) -> None:
        for other in numbers:  # a second one must not come into the first's locks
            signal.signal(other, signal.SIG_IGN)
        machine.stop(signal.Signals(number).name, exit_code=128 + number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(machine: Machine, quiet: bool) -> RunResult:
    try:
        return machine.wait(None if quiet else machine.silence_s)
    except TimeoutError:
        if machine.console.first_output_ns is None:
            _say(
                f"the guest has printed nothing for {machine.silence_s} s: "
                "is console=ttyS0 missing from its command line?"
            )
        return machine.wait()


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed, or else we may not read.

    A descriptor that we open would take its number, and be taken for it. And a
    job in the background that reads its terminal is stopped.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: fd
    if os.isatty(0) and not in_foreground(0):
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
