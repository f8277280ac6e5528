"""`vmm run` and `restore`: one machine with its console here, messages, files."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Lock
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from ..config import KEYWORDS, MachineConfig
from ..console.config import PLAIN
from ..console.signals import handled
from ..errors import ConfigError, VmmError
from ..machine.machine import Machine
from ..place import Place, parse_place
from ..result import ExitReason, RunResult, told_apart
from .messages import say, show, show_traceback
from .options import Options

if TYPE_CHECKING:  # most runs don't import them
    from ..machine.snapshot import Snapshot
    from ..profile.recorder import Profile
    from .saving import Saver

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

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(options: Options) -> int:
    """Run a machine as the arguments say; returns the exit code."""
    snapshot = None
    if options.subcommand == "restore":
        from .restore import load

        snapshot = load(options)
    if options.serial is None:
        is_ours = not (options.capture or options.shell)
        options.serial = Place("stdio" if is_ours else "null")
    if options.shell:
        _check_shell(options)
        if snapshot is None:
            options.agent = True
    _check_places(options)
    report = _reporter(options.result)
    profile = _new_profile(options)
    saver = _new_saver(options)
    with ExitStack() as signals:  # until all is written
        try:
            result, error = _run_machine(options, profile, saver, snapshot, signals)
        except Exception as failure:
            code = told_apart(getattr(failure, "exit_code", 1), **passed_on(options))
            try:
                report(RunResult(ExitReason.ERROR, code, detail=str(failure)))
            except VmmError as problem:  # one more, and not the one that came first
                say(f"error: {problem}")
            raise
        report(result)
        return _conclude(options, profile, result, error)


def _conclude(
    options: Options,
    profile: "Profile | None",
    result: RunResult,
    error: Exception | None,
) -> int:
    """Write the profile, and say how it was; returns the exit code."""
    if profile is not None:
        from .profile_file import write_profile

        write_profile(options.profile, profile, result)
    if result.reason is ExitReason.ERROR:
        if options.debug:
            show_traceback(error)
        say(f"error: {result.detail}")
    elif not options.quiet:
        _tell(result)
    return result.exit_code


def passed_on(options: Options) -> dict[str, bool]:
    """Whose status the exit code may be: what `told_apart` is to know."""
    given = {name for name, value in vars(options).items() if value is not None}
    saved: MachineConfig | None = getattr(options, "saved", None)
    command = not given.isdisjoint(("command", "script", "shell"))
    debug_exit = "debug_exit" in given
    if saved is not None:
        command |= saved.runs_command
        debug_exit |= saved.debug_exit is not None
    return {"command": command, "debug_exit": debug_exit}


def _check_shell(options: Options) -> None:
    """Raises ConfigError where the shell couldn't have what it needs."""
    if options.serial.is_standard:
        raise ConfigError(
            "shell: stdin and stdout are its own: choose --serial null, file:PATH or "
            "unix:PATH"
        )


def _check_places(options: Options) -> None:
    """Raises ConfigError where a report would replace what the console has written."""
    ports = [parse_place(port.partition("=")[2], PLAIN) for port in options.ports or ()]
    places = [options.serial, options.debugcon, *(options.tee or ()), *ports]
    taken = {where.file for where in places if where is not None} - {None}
    for name in ("result", "profile"):
        path = getattr(options, name)
        if path is not None and os.path.realpath(path) in taken:
            raise ConfigError(f"{name}: {path!r} is where the guest's output goes")


def _reporter(path: str | None) -> Callable[[RunResult], None]:
    """What writes the result, once it is known that it can be written."""
    if path is None:
        return lambda result: None
    from .result_file import check_result_path, write_result

    check_result_path(path)
    return partial(write_result, path)


def _new_profile(options: Options) -> "Profile | None":
    if options.profile is None:
        return None
    from ..profile.recorder import Profile
    from .profile_file import check_profile_path

    check_profile_path(options.profile, options.result)
    return Profile()


def _new_saver(options: Options) -> "Saver | None":
    if options.save is None:
        if options.save_when is not None:
            raise ConfigError("save_when: say where: pass --save DIR, too")
        return None
    from .saving import Saver

    return Saver(options)


def _run_machine(
    options: Options,
    profile: "Profile | None",
    saver: "Saver | None",
    snapshot: "Snapshot | None",
    signals: ExitStack,
) -> tuple[RunResult, Exception | None]:
    chosen = {n: value for n, value in vars(options).items() if value is not None}
    settings: Any = {name: chosen[name] for name in KEYWORDS & chosen.keys()}
    if options.save_when is not None:
        settings["tee"] = [*settings.get("tee", ()), "capture"]
    if snapshot is None:
        config = MachineConfig(**settings)
    else:
        config = snapshot.config_of_clone(settings)
    with ExitStack() as stack:
        _guard_sockets(config, stack)
        if snapshot is None:
            machine = stack.enter_context(Machine(config, profile))
        else:
            machine = stack.enter_context(snapshot.clone(start=False, **settings))
            snapshot.close()
        stack.enter_context(_keys_of_a_terminal(machine, options, saver))
        stopper = _Stopper(machine)
        stack.callback(stopper.disarm)
        signals.enter_context(handled(dict.fromkeys(_STOPPING, stopper)))
        if not options.quiet:
            _say_what_to_expect(machine, boots=snapshot is None)
        if saver is not None:  # after what forks
            saver.connect(machine)
        machine.start()
        gc.freeze()  # what is there now is no garbage: see __main__
        gc.enable()
        if options.shell:
            return _shell(machine, options), machine.error
        # A command may take its time, and prints when it likes.
        result = _wait(machine, options.quiet or config.runs_command)
        _say_hints(machine, options)
        if machine.paused is not None:
            _hold(machine, result, options)
            options.quiet = True  # all has been said
        if saver is not None:
            result = saver.finish(result)
    return result, machine.error


def _say_what_to_expect(machine: Machine, *, boots: bool) -> None:
    config = machine.config
    if boots and config.kernel is None and not config.boot_from_disk:
        kernel = os.path.basename(config.images()[0])
        say(f"no --kernel: booting our {kernel}, this host's default")
    for warning in machine.warnings:
        say(f"warning: {warning}")
    machine.on_warning = lambda warning: say(f"warning: {warning}")


def _say_hints(machine: Machine, options: Options) -> None:
    """On lines of their own, as all that we say now."""
    if machine.console.mid_line and _shares_our_screen(options):
        show("\n")
    if not options.quiet:
        for hint in machine.hints():
            say(f"hint: {hint}")


def _shell(machine: Machine, options: Options) -> RunResult:
    """Have a shell there, and make its status the run's."""
    from .shell import shell_status

    status = shell_status(machine, quiet=options.quiet)
    if status is None:
        result = machine.wait()
        code = told_apart(result.exit_code, **passed_on(options))
        return result.replace(exit_code=code)
    machine.stop("its shell has ended", exit_code=status)
    result = machine.wait()
    options.quiet |= result.reason is ExitReason.STOPPED
    return result.replace(guest_status=status, success=status == 0)


def _guard_sockets(config: MachineConfig, stack: ExitStack) -> None:
    """Have their files removed if we are killed."""
    if any(where.kind == "unix" for _, where in config.places()):
        from ..console import socket_file
        from ..console.guardian import Guardian

        # It forks: before any thread starts.
        guardian = stack.enter_context(Guardian(socket_file.remove))
        stack.enter_context(socket_file.reported_to(guardian.tell))


def _tell(result: RunResult) -> None:
    """How it has ended, and why if that can be seen."""
    detail = f": {result.detail}" if result.detail else ""
    say(f"{_OUTCOMES[result.reason]}{detail} ({result.wall_s:.2f} s)")
    if result.console_dropped:
        say(f"{result.console_dropped} bytes of console output were dropped")
    if result.report:
        show(f"{result.report}\n")


def _hold(machine: Machine, result: RunResult, options: Options) -> None:
    """Keep a paused guest until somebody has seen enough of it."""
    if not options.quiet:
        _tell(result)
        keys = "Ctrl-A x" if _has_our_keys(options) else "Ctrl-C"
        say(f"paused; {keys} or SIGTERM ends it")
    machine.join()


def _shares_our_screen(options: Options) -> bool:
    """Whether the guest's output and our messages go to the same place."""
    return options.serial.is_standard and os.isatty(1) and os.isatty(2)


def _has_our_keys(options: Options) -> bool:
    """Whether ttyS0 is on our terminal, whose keys are the guest's."""
    return options.serial.kind == "stdio" and os.isatty(0)


@contextmanager
def _keys_of_a_terminal(
    machine: Machine, options: Options, saver: "Saver | None"
) -> Iterator[None]:
    """With ttyS0 on a terminal, all keys are the guest's, but for Ctrl-A."""
    if not _has_our_keys(options):
        yield
        return
    from ..console.terminal import HELP, SAVE_HELP, EscapeFilter, raw_terminal

    with ExitStack() as stack:
        if stack.enter_context(raw_terminal(0)):
            machine.console.input_filter = EscapeFilter(
                on_quit=lambda: machine.stop("Ctrl-A x"),
                on_help=lambda: show(
                    HELP.format(x="quit the VMM") + ("" if saver is None else SAVE_HELP)
                ),
                on_break=machine.console.send_break,
                on_save=None if saver is None else saver.save_soon,
            )
            stack.enter_context(machine.console.follow_terminal())
            if not options.quiet:
                say("Ctrl-A x quits, Ctrl-A h helps")
        yield


class _Stopper:
    """What SIGINT, SIGTERM and SIGHUP do: the first one stops the run, in good order.

    What comes after it, or after the run, changes nothing any more: a second one must
    not come into the locks of the first, nor spoil the exit code.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._done = Lock()

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self._done.acquire(blocking=False):
            code = self._machine.config.own_exit_code(128 + number)
            self._machine.stop(signal.Signals(number).name, exit_code=code)

    def disarm(self) -> None:
        """The run is over."""
        self._done.acquire(blocking=False)


def _wait(machine: Machine, quiet: bool) -> RunResult:
    try:
        return machine.wait(None if quiet else machine.quirks.silence_s)
    except TimeoutError:
        debugcon = machine.debugcon
        mute = debugcon is None or debugcon.first_output_ns is None
        if mute and machine.console.first_output_ns is None:
            name = "ttyS0" if machine.config.console_device == "serial" else "hvc0"
            say(
                f"the guest has printed nothing for {machine.quirks.silence_s} s: "
                f"is console={name} missing from its command line?"
            )
        return machine.wait()
