"""`vmm run`: one machine with its console here, signals, messages, files."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Final

from .config import MachineConfig
from .guardian import Guardian
from .machine import Machine
from .messages import say, show_traceback
from .result import ExitReason, RunResult
from .terminal import HELP, EscapeFilter, raw_terminal

if TYPE_CHECKING:  # a run without a profile doesn't import it
    from .profile.recorder import Profile

_OUTCOMES: Final = {
    ExitReason.RESET: "the guest reset",
    ExitReason.POWEROFF: "the guest powered off",
    ExitReason.EXITED: "the guest has ended the run",
    ExitReason.CRASH: "the guest crashed",
    ExitReason.PANIC: "the guest panicked",
    ExitReason.HANG: "the guest hangs",
    ExitReason.TIMEOUT: "timed out",
    ExitReason.STOPPED: "stopped",
}


def run(options: argparse.Namespace) -> int:
    """Run a machine as the arguments say; returns the exit code."""
    if options.serial is None:
        options.serial = "null" if options.capture else "stdio"
    report = _reporter(options.result)
    profile = _new_profile(options)
    try:
        result, error = _run_machine(options, profile)
    except Exception as failure:
        code = getattr(failure, "exit_code", 1)
        report(RunResult(ExitReason.ERROR, code, detail=str(failure)))
        raise
    report(result)
    if profile is not None:
        from .profile.report import write_profile

        write_profile(options.profile, profile, result)
    if result.reason is ExitReason.ERROR:
        if options.debug:
            show_traceback(error)
        say(f"error: {result.detail}")
    elif not options.quiet:
        _tell(result)
    return result.exit_code


def _reporter(path: str | None) -> Callable[[RunResult], None]:
    """What writes the result, once it is known that it can be written."""
    if path is None:
        return lambda result: None
    from .result_file import check_result_path, write_result

    check_result_path(path)
    return partial(write_result, path)


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
    names = MachineConfig.field_names
    config = MachineConfig(**{name: chosen[name] for name in names})
    with ExitStack() as stack:
        # Guardians fork: before any thread starts, and before what they guard.
        for where in (config.serial, *config.tee):
            if where.startswith("unix:"):
                remove = _socket_remover(where.removeprefix("unix:"))
                stack.enter_context(Guardian(remove))
        machine = stack.enter_context(Machine(config, profile))
        stack.enter_context(_keys_of_a_terminal(machine, options))
        stack.enter_context(_signals_stop(machine))
        if config.kernel is None and not options.quiet:
            kernel = os.path.basename(config.images()[0])
            say(f"no --kernel: booting our {kernel}, this host's default")
        for warning in () if options.quiet else machine.warnings:
            say(f"warning: {warning}")
        machine.start()
        # A command may take its time, and prints when it likes.
        result = _wait(machine, options.quiet or config.runs_command)
        if machine.console.mid_line and options.serial == "stdio" and _on_terminal():
            print(file=sys.stderr)  # so that what we say starts on a line of its own
        if machine.paused is not None:
            _hold(machine, result, options)
            options.quiet = True  # all has been said
    return result, machine.error


def _tell(result: RunResult) -> None:
    """How it has ended, and why if that can be seen."""
    detail = f": {result.detail}" if result.detail else ""
    say(f"{_OUTCOMES[result.reason]}{detail} ({result.wall_s:.2f} s)")
    if result.console_dropped:
        say(f"{result.console_dropped} bytes of console output were dropped")
    if result.report:
        print(result.report, file=sys.stderr, flush=True)


def _hold(machine: Machine, result: RunResult, options: argparse.Namespace) -> None:
    """Keep a paused guest until somebody has seen enough of it."""
    if not options.quiet:
        _tell(result)
        ours = options.serial != "stdio" or not os.isatty(0)  # else it is the guest's
        keys = "Ctrl-C" if ours else "Ctrl-A x"
        say(f"paused; {keys} or SIGTERM ends it")
    machine.join()


def _on_terminal() -> bool:
    """Whether the guest's output and our messages go to the same place: a screen."""
    return os.isatty(1) and os.isatty(2)


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
                on_break=machine.console.send_break,
            )
            if not options.quiet:
                say("Ctrl-A x quits, Ctrl-A h helps")
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
    """SIGINT, SIGTERM and SIGHUP end the run in good order; ignored ones stay so."""

    def stop(number: int, _: FrameType | None) -> None:
        for other in numbers:  # a second one must not come into the first's locks
            signal.signal(other, signal.SIG_IGN)
        machine.stop(signal.Signals(number).name, exit_code=128 + number)

    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # by nohup, or a script's &
    ]
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
            say(
                f"the guest has printed nothing for {machine.silence_s} s: "
                "is console=ttyS0 missing from its command line?"
            )
        return machine.wait()
