"""Life: the boots of a machine, one after another, and what remains of them."""

import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from .. import threads
from ..config import MachineConfig
from ..console.console import Console
from ..console.output import HURRY_S
from ..errors import VmmError
from ..event_loop import EventLoop
from ..result import DEBUG_EXIT_SUCCESS, EXIT_CODES, ExitReason, RunResult
from ..vcpu.control import LOOK, End, failure
from ..watch.panic import PanicWatch
from .verdict import Verdict
from .vm_instance import Parts, PowerCycle

if TYPE_CHECKING:  # most runs don't import them
    from ..debug.paused_guest import PausedGuest
    from ..debug.symbols import Symbols
    from ..guest.ports import CommandPort

# Where there is a command, before its status.
_ENDED_EARLY: Final = (ExitReason.RESET, ExitReason.POWEROFF)
_REPORTED: Final = (ExitReason.CRASH, ExitReason.HANG)


class Outside(NamedTuple):
    """A machine's host side: its loop, ttyS0 and who watches it, and on request the
    port of a command and that of a debug console."""

    loop: EventLoop
    console: Console
    watch: PanicWatch
    command: "CommandPort | None"
    debugcon: Console | None
    failures: list[str]
    """What could not be written, once for each place that output goes to."""

    @property
    def consoles(self) -> list[Console]:
        """ttyS0, the command's own output, the debug console's."""
        output = None if self.command is None else self.command.output
        consoles = (self.console, output, self.debugcon)
        return [console for console in consoles if console is not None]

    def abandon(self) -> None:
        """Wait no longer for readers that take their time."""
        for console in self.consoles:
            console.abandon()


class Life:
    """Runs vCPU 0 on a thread of its own, which also builds the VM of every boot.

    `result` is there when the run is over, or paused; `paused` is the guest then.
    """

    def __init__(
        self,
        config: MachineConfig,
        parts: Parts,
        outside: Outside,
        symbols: "Symbols | None",
    ) -> None:
        self.config = config
        self.result: RunResult | None = None
        self.paused: PausedGuest | None = None
        self.started_ns: int | None = None
        self._parts = parts
        self._control = parts.control
        self._outside = outside
        self._symbols = symbols
        self._done = threading.Event()
        self._exits: dict[str, int] = {}
        self._insn_emulation = 0
        self._resets = 0
        self._powered = False
        self._report = ""
        self._verdict = Verdict(
            parts.control, outside.console, outside.watch, outside.loop
        )
        # A daemon: a program that ends without close() is not to wait for the guest.
        self._thread = threading.Thread(
            target=self._main, name="vmm-vcpu0", daemon=True
        )

    # For the machine, on any thread

    def power_on(self) -> None:
        """Make the first VM. Raises VmmError, KvmError."""
        self.cycle = self._power_on()
        self.started_ns = self._outside.loop.now_ns()

    def begin(self) -> None:
        """Let it run."""
        threads.start(self._thread)

    def wait(self, timeout: float | None) -> RunResult:
        """As Machine.wait."""
        if self.started_ns is None:
            raise VmmError("this machine was never started")
        if not self._done.wait(timeout):
            raise TimeoutError(f"the guest still runs after {timeout} s")
        assert self.result is not None
        return self.result

    @property
    def is_over(self) -> bool:
        """Whether there is a result, and no guest that could go on."""
        return self.paused is None and self._done.is_set()

    def resume(self) -> None:
        """As Machine.resume."""
        if self.paused is None:
            raise VmmError("the guest isn't paused")
        self._outside.console.resume()
        self._done.clear()
        self.paused = None
        if not self._control.resume():
            self._done.set()
            raise VmmError("the guest isn't paused any more: the run has ended")

    def join(self) -> None:
        """Wait until the guest is gone."""
        if self._thread.ident is not None:
            self._thread.join()

    # On its thread

    def _power_on(self) -> PowerCycle:
        if self._parts.profile is not None:
            self._parts.profile.power_on()
        for console in self._outside.consoles:
            console.power_on()
        self._outside.watch.restart(self._outside.console.sink.accepted)
        cycle = PowerCycle(self._parts)
        self._powered = True
        return cycle

    def _main(self) -> None:
        concluded = False
        try:
            try:
                concluded = self._live()
            finally:
                self._power_off()
        except Exception as error:
            self._control.finish(failure(error))
            self._outside.abandon()
        try:
            if not concluded:
                self._conclude()
        except Exception as error:  # who waits gets a result, whatever happens
            self._end(self._result_of(failure(error)))
        finally:
            self._done.set()

    def _live(self) -> bool:
        """Run one boot after another; whether the last one's result is made."""
        while True:
            self._run()
            self._look_back()
            policy = self._policy()
            if policy == "pause":
                if not self._pause():
                    return True
                end = self._control.end
                if end is None or end.reason is not ExitReason.RESET:
                    self._control.rearm()
                    continue
            elif policy == "exit":
                return False
            self._boot_again()

    def _run(self) -> None:
        """Run until the control has an end, with looks at the vCPUs in between."""
        self._verdict.begin()
        while True:
            self.cycle.run()
            if self._control.end is not LOOK:
                return
            self._verdict.look(self.cycle.vcpus, self._parts.memory)
            if not self._control.go_on():
                return

    def _look_back(self) -> None:
        """Note what is lost once the VM is gone."""
        end = self._control.end
        assert end is not None
        self._verdict.weigh(end)
        if end.reason is ExitReason.RESET:
            self._resets += 1
        if end.reason in _REPORTED:
            self._report = self._make_report()

    def _make_report(self) -> str:
        """Registers, code and stack, and what the devices have to say.

        It only adorns the result, so that nothing in it may fail the run.
        """
        parts = self._parts
        try:
            from ..debug.crash_report import crash_report

            report = crash_report(self.cycle.vcpus, parts.memory, self._find_symbols())
        except Exception as error:  # no descriptor is left for a module's file, for one
            report = f"there is no report: {type(error).__name__}: {error}"
        return "\n".join([report, *parts.devices.reports()])

    def _with_failures(self, end: End) -> End:
        """The end, with what could not be written; a success is none then."""
        lost = [text for text in self._outside.failures if text not in end.detail]
        if not lost:
            return end
        if self._is_success(end):
            return End(ExitReason.ERROR, "; ".join(lost))
        return end._replace(detail="; ".join(filter(None, [end.detail, *lost])))

    def _is_success(self, end: End) -> bool:
        if end.reason is ExitReason.EXITED:  # which other statuses are, nobody knows
            return end.exit_code == 0 or not self.config.runs_command
        return end.reason in _ENDED_EARLY

    def _policy(self) -> str:
        policies: dict[ExitReason, str] = {
            ExitReason.RESET: self.config.on_reset,
            ExitReason.PANIC: self.config.on_panic,
            ExitReason.CRASH: self.config.on_crash,
        }
        return policies.get(self._verdict.end.reason, "exit")

    def _pause(self) -> bool:
        """Show the result and the guest until it is resumed: True, or stopped."""
        from ..debug.paused_guest import PausedGuest

        guest = PausedGuest(self.cycle.vcpus, self._parts.memory, self._find_symbols())
        self._conclude()
        self.paused = guest
        self._done.set()
        resumed = self._control.hold()
        if not resumed:
            self.paused = None
        guest.release()
        return resumed

    def _boot_again(self) -> None:
        end = self._control.end
        if end is not None and end.reason is not ExitReason.RESET:  # we do it for it
            self._resets += 1
        self._power_off()
        self._parts.memory.discard()
        self._parts.devices.reset()
        self._control.rearm()
        self.cycle = self._power_on()

    def _power_off(self) -> None:
        """Take the VM down, and keep what it has counted. Idempotent."""
        if not self._powered:
            return
        if self._parts.profile is not None:
            self._parts.profile.power_off()
        try:
            self._exits, self._insn_emulation = self._totals()
        finally:
            self._powered = False
            self.cycle.close()

    def _totals(self) -> tuple[dict[str, int], int]:
        """Exits by kind and emulated instructions, over all boots."""
        exits = dict(self._exits)
        if not self._powered:
            return exits, self._insn_emulation
        for kind, count in self.cycle.exits.items():
            exits[kind] = exits.get(kind, 0) + count
        return exits, self._insn_emulation + self.cycle.insn_emulation

    def _find_symbols(self) -> "Symbols | None":
        if self._symbols is None:
            from ..debug.symbols import symbols_of

            self._symbols = symbols_of(self.config.images()[0])
        return self._symbols

    def _conclude(self) -> None:
        """Let the console finish, and make the result that `wait` waits for."""
        end = self._verdict.end
        hurried = end.reason in (ExitReason.STOPPED, ExitReason.TIMEOUT)
        now_ns = self._outside.loop.now_ns()
        for console in self._outside.consoles:
            console.finish(HURRY_S if hurried else None)
        end = self._with_failures(end)  # of which there may be more only now
        self._end(self._full_result(end, now_ns))

    def _end(self, result: RunResult) -> None:
        self.result = result
        for console in self._outside.consoles:
            console.end(result)

    def _result_of(self, end: End) -> RunResult:
        """What is known whatever has failed: the reason, the exit code, the detail."""
        detail, code = end.detail, end.exit_code
        if code is None:
            code = self.config.own_exit_code(EXIT_CODES[end.reason])
        if self._outside.command is not None and end.reason in _ENDED_EARLY:
            detail = "but its command's status never came"
            code = self.config.own_exit_code(1)
        if end.reason is ExitReason.CRASH:
            detail += self._parts.host.quirks.note()
        status = success = None
        if end.reason is ExitReason.EXITED:
            status = code
            success = code == (0 if self.config.runs_command else DEBUG_EXIT_SUCCESS)
        return RunResult(
            end.reason, code, guest_status=status, success=success, detail=detail
        )

    def _full_result(self, end: End, ended_ns: int) -> RunResult:
        """And all that was counted and kept."""
        console, command = self._outside.console, self._outside.command
        exits, insn_emulation = self._totals()
        return self._result_of(end).replace(
            resets=self._resets,
            wall_s=self._since_start_s(ended_ns),
            first_output_s=(
                None
                if console.first_output_ns is None
                else self._since_start_s(console.first_output_ns)
            ),
            exits=exits,
            insn_emulation=insn_emulation,
            quirks=self._parts.host.quirks.counts,
            cmdline=self._parts.boot.cmdline.decode(errors="surrogateescape"),
            console_bytes=console.sink.accepted,
            console_dropped=sum(each.sink.dropped for each in self._outside.consoles),
            unclaimed_accesses=self._parts.devices.io_manager.unclaimed_accesses,
            oops=self._outside.watch.oops,
            report=self._report,
            output=None if command is None else command.kept_output(),
        )

    def _since_start_s(self, when_ns: int) -> float:
        assert self.started_ns is not None
        return round((when_ns - self.started_ns) / 1e9, 6)
