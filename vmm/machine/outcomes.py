"""Outcomes: who notices that a run is over, and what he then says of it."""

from collections.abc import Callable
from contextlib import ExitStack

from ..config import MachineConfig
from ..result import ExitReason
from ..vcpu.control import End, failure
from ..vcpu.entry import TICK_NS
from ..watch.panic import when_silent
from .lifecycle import HostSide
from .state import MachineState, RunState


class Outcomes:
    """Callbacks for devices, the console and timers, each of which ends the run.

    `failures` are what could not be written, once for each place that output goes to.
    """

    def __init__(self, config: MachineConfig, state: RunState) -> None:
        self._config = config
        self._state = state
        self._host_side: HostSide | None = None
        self.failures: list[str] = []
        self._watches = ExitStack()

    def connect(self, host_side: HostSide) -> None:
        """Who else is to hear of it, once there is somebody."""
        self._host_side = host_side

    def watch(self, exits: Callable[[], dict[str, int]], *, poke: bool) -> None:
        """Look, while it runs, for what nobody else would notice.

        `exits` counts them by kind; `poke` makes vCPUs take posted writes.
        """
        host_side, started_ns = self._host_side, self._state.started_ns
        assert host_side is not None
        assert started_ns is not None
        if self._config.timeout is not None:
            due = started_ns + int(self._config.timeout * 1e9)
            timer = host_side.loop.call_at(due, self.timed_out)
            self._watches.callback(timer.cancel)
        if poke:
            from ..watch.looks import Looks

            looks = Looks(host_side.loop, TICK_NS, self._poke)
            self._watches.callback(looks.stop)
        if self._config.hang_s is None:
            return
        from ..watch.hang import HangWatch  # most runs have none

        console, turn = host_side.console, self._state.turn

        def progress() -> object:
            """Something that changes whenever the guest does something."""
            nonlocal turn
            turn = self._state.turn  # before the rest: of none but this it tells
            if console.is_held:  # it waits for us
                return object()
            counts = exits()
            del counts["intr"]  # kicks of ours
            return turn, console.printed, counts

        limit_s = self._config.hang_s
        hang = HangWatch(host_side.clock, limit_s, progress, lambda: self.hung(turn))
        self._watches.callback(hang.stop)

    def unwatch(self) -> None:
        """Undo `watch`, while the event loop doesn't run."""
        self._watches.close()

    def _poke(self, _: int) -> bool:
        """Now and then: what a guest has written without an exit is to be seen."""
        self._state.poke()
        return self._state.state not in (MachineState.ENDED, MachineState.CLOSED)

    def stop(self, end: End) -> None:
        """End the run now, and wait no longer for readers that take their time."""
        self._state.finish(end)
        if self._host_side is not None:
            self._host_side.abandon()

    def reset(self) -> None:
        """The guest pulled the reset line: it takes effect after this access."""
        self._state.finish(End(ExitReason.RESET))

    def powered_off(self) -> None:
        """The guest switched off: likewise."""
        self._state.finish(End(ExitReason.POWEROFF))

    def command_ended(self, word: int) -> None:
        """The guest's command has ended, or couldn't be started."""
        from ..guest.command import describe_status

        command = self._config.command
        argv = None if command is None else command.command
        detail = describe_status(word, argv)
        self._state.finish(End(ExitReason.EXITED, detail, word & 0xFF))

    def debug_exit(self, value: int) -> None:
        """The guest ends the run, as QEMU's isa-debug-exit does."""
        from ..devices.pc.isa_debug_exit import exit_status

        detail = f"{value:#x} was written to the debug-exit port"
        self._state.finish(End(ExitReason.EXITED, detail, exit_status(value)))

    def timed_out(self) -> None:
        """It took too long, pauses included."""
        detail = f"the guest still ran after {self._config.timeout:g} s"
        self.stop(End(ExitReason.TIMEOUT, detail))

    def panic_told(self) -> None:
        """A panic was told of: don't wait for what the guest does then.

        But shortly, for the rest of its report. Words alone may be a program's: the
        vCPUs are to show whether the kernel has panicked.
        """
        assert self._host_side is not None
        console, watch = self._host_side.console, self._host_side.watch
        turn = self._state.turn

        def panicked() -> None:
            if watch.has_crash_kernel:
                return  # it is to have its time
            if watch.is_proven:
                self._state.finish(End(ExitReason.PANIC, watch.detail), turn)
            else:
                self._state.look(turn)

        when_silent(self._host_side.clock, lambda: console.printed, panicked)

    def hung(self, turn: int) -> None:
        """Nothing has happened for too long, all of it in this `turn`."""
        detail = f"no console output and no exit for {self._config.hang_s:g} s"
        self._state.finish(End(ExitReason.HANG, detail), turn)

    def loop_failed(self, error: Exception) -> None:
        """A callback on the event loop has raised, a device's maybe."""
        self.stop(failure(error))

    def write_failed(self, detail: str) -> None:
        """An output can't be written; the others are still to get what is theirs."""
        self.failures.append(detail)
        self._state.finish(End(ExitReason.ERROR, detail))
