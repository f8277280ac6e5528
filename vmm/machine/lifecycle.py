"""Lifecycle: the boots of a machine, one after another, and what remains of them."""

import threading
from typing import TYPE_CHECKING, Final

from .. import threads
from ..config import MachineConfig
from ..console.console import Console
from ..console.output import HURRY_S
from ..devices.errors import InvalidState
from ..devices.record import Record
from ..errors import ConfigError, ImageError
from ..event_loop import EventLoop, GuestClock
from ..result import DEBUG_EXIT_SUCCESS, EXIT_CODES, ExitReason, RunResult
from ..vcpu.control import LOOK, PAUSE, End, failure
from ..watch.panic import PanicWatch
from .builder import SavedBoot
from .state import RunState
from .verdict import Verdict
from .vm_instance import VmInstance, VmParts

if TYPE_CHECKING:  # most runs don't import them
    from ..agent.port import AgentPort
    from ..debug.symbols import Symbols
    from ..guest.ports import CommandPort
    from ..vhost_user.device import VhostUserDevice
    from ..vsock.vsock import Vsock
    from .guest_time import GuestTime
    from .saved_vm import SavedVm

# Where there is a command, before its status.
_ENDED_EARLY: Final = (ExitReason.RESET, ExitReason.POWEROFF)
_REPORTED: Final = (ExitReason.CRASH, ExitReason.HANG)


class HostSide(Record):
    """A machine's host side: its loop, ttyS0 and who watches it, and on request the
    ports of a command and of an agent, a debug console, virtio's `ports`, devices that
    other processes serve, and sockets. `clock` is the loop's for the guest.
    """

    loop: EventLoop
    clock: GuestClock
    console: Console
    watch: PanicWatch
    command: "CommandPort | None"
    agent: "AgentPort | None"
    debugcon: Console | None
    ports: tuple[Console, ...]
    served: "list[VhostUserDevice]"
    vsock: "Vsock | None"
    failures: list[str]
    """What could not be written, once for each place that output goes to."""

    @property
    def consoles(self) -> list[Console]:
        """The guest's, the command's own output, the debug console's, and ports."""
        output = None if self.command is None else self.command.output
        consoles = (self.console, output, self.debugcon, *self.ports)
        return [console for console in consoles if console is not None]

    def power_on(self, *, goes_on: bool = False) -> None:
        """The guest is about to boot, for the first time or again; or to go on."""
        for console in self.consoles:
            console.power_on(goes_on=goes_on)
        if self.agent is not None and not goes_on:
            self.agent.power_on()
        if self.vsock is not None:
            self.vsock.power_on()

    def power_off(self) -> None:
        """The guest is gone."""
        if self.vsock is not None:
            self.vsock.power_off()

    def restored(self) -> None:
        """The guest goes on from elsewhere; its agent spoke with another host there."""
        if self.agent is not None:
            self.agent.guest.reconnect()

    def end(self, result: RunResult | None) -> None:
        """The run is over: nobody is to wait for more than there is. None: it isn't."""
        for console in self.consoles:
            console.end(result)
        if self.agent is not None:
            self.agent.end(result)
        if self.vsock is not None:
            self.vsock.end(result)

    def abandon(self) -> None:
        """Wait no longer for readers that take their time."""
        for console in self.consoles:
            console.abandon()

    def hold(self) -> None:
        """When no vCPU runs: let nothing reach a device any more, until `go_on`.

        What the guest has printed until then comes out. Waits for the loop.
        """

        def hold() -> None:
            self.clock.stop()
            for console in (self.console, *self.ports):
                console.hold_input()
            if self.agent is not None:
                self.agent.hold()
            if self.vsock is not None:
                self.vsock.hold()

        self.loop.settle(hold)
        for console in (self.console, *self.ports):
            console.flush()
        for device in self.served:
            device.hold()

    def go_on(self) -> None:
        """Undo it."""
        for device in self.served:
            device.go_on()
        self.clock.start()
        for console in (self.console, *self.ports):
            console.release_input()
        if self.agent is not None:
            self.agent.go_on()
        if self.vsock is not None:
            self.vsock.go_on()


class Lifecycle:
    """Runs vCPU 0 on a thread of its own, which also builds the VM of every boot.

    The other methods are for the machine, on any thread. `state` has what they and
    that thread tell each other.
    """

    def __init__(
        self,
        config: MachineConfig,
        parts: VmParts,
        state: RunState,
        host_side: HostSide,
        symbols: "Symbols | None",
        saved: "SavedVm | None" = None,
    ) -> None:
        """`saved` is what its first boot goes on from, with the parts' memory."""
        self.config = config
        self._saved = saved
        boot = parts.boot
        self._snapshot = boot.snapshot if isinstance(boot, SavedBoot) else ""
        self._time: GuestTime | None = None  # while the guest stands still
        self._parts = parts
        self._state = state
        self._host_side = host_side
        self._symbols = symbols
        self._exits: dict[str, int] = {}
        self._insn_emulation = 0
        self._resets = 0
        self._powered = False
        self._report = ""
        self._verdict = Verdict(
            state, host_side.console, host_side.watch, host_side.clock
        )
        state.tell_readers = host_side.end
        # A daemon: a program that ends without close() is not to wait for the guest.
        self._thread = threading.Thread(
            target=self._main, name="vmm-vcpu0", daemon=True
        )

    # For the machine, on any thread

    def power_on(self) -> None:
        """Make the first VM. Raises VmmError, KvmError."""
        try:
            self.instance = self._power_on()
        except (InvalidState, ConfigError) as error:
            if self._snapshot:  # it is the file that says so
                raise ImageError(f"snapshot {self._snapshot!r}: {error}") from None
            raise
        self._state.started_ns = self._host_side.loop.now_ns()

    def begin(self) -> None:
        """Let it run. Raises VmmError if there can't be another thread."""
        self._state.started()
        threads.start(self._thread)

    def save(self) -> "SavedVm":
        """All but RAM of a guest that stands still. Raises KvmError."""
        assert self._time is not None
        return self.instance.save(self._time.clock)

    def restore(self, saved: "SavedVm") -> None:
        """Put a guest that stands still, and its RAM's content, back to that."""
        from .guest_time import GuestTime

        self.instance.restore(saved)
        self._goes_on()
        self._time = GuestTime(self.instance.vm, self.instance.vcpus)

    def _goes_on(self) -> None:
        """It is about to, from what was saved."""
        self._host_side.restored()
        self._host_side.loop.call_soon(self._parts.memory.warm)

    def join(self) -> None:
        """Wait until the guest is gone."""
        if self._thread.ident is not None:
            self._thread.join()

    def power_off(self) -> None:
        """Take the VM down, and keep what it has counted. Idempotent."""
        if not self._powered:
            return
        if self._parts.profile is not None:
            self._parts.profile.power_off()
        try:
            self._exits, self._insn_emulation = self._totals()
        finally:
            self._powered = False
            self.instance.close()
            self._host_side.power_off()

    # On its thread

    def _power_on(self) -> VmInstance:
        if self._parts.profile is not None:
            self._parts.profile.power_on()
        self._host_side.power_on(goes_on=self._saved is not None)
        self._host_side.watch.restart(self._host_side.console.sink.accepted)
        instance = VmInstance(self._parts, self._saved)
        if self._saved is not None:
            self._goes_on()
        self._powered = True
        self._saved = None  # a boot again is one
        return instance

    def _main(self) -> None:
        self._state.own_threads.add(threading.get_ident())
        result = None
        try:
            try:
                result = self._live()
            finally:
                self._state.ending()
                self.power_off()
        except Exception as error:  # outranks what a policy's pause has told, too
            result = None
            self._state.fail(error)
            self._host_side.abandon()
        end = None
        try:
            if result is None:
                end, result = self._conclude()
        except Exception as error:  # who waits gets a result, whatever happens
            end = failure(error)
            result = self._result_of(end)
        finally:
            assert result is not None
            self._state.ended(result, None if end is None else end.error)

    def _live(self) -> RunResult | None:
        """Run one boot after another; the last one's result, if it is made already."""
        while True:
            self._run()
            end = self._state.end
            assert end is not None
            self._record_end(end)
            reason = self._verdict.effective_end.reason
            policy = self._policy(reason)
            if end.reason is ExitReason.RESET or policy == "restart":  # we do it for it
                self._resets += 1
            if policy == "exit":
                return None
            boots_again = policy == "restart" or reason is ExitReason.RESET
            if policy == "pause":
                resumed, result = self._pause(by_policy=True, goes_on=not boots_again)
                if not resumed:
                    return result
            if boots_again:
                self._boot_again()

    def _run(self) -> None:
        """Run until the state has an end, with looks and pauses in between."""
        self._verdict.begin()
        while True:
            self.instance.run()
            if self._state.end is LOOK:
                self._verdict.look(self.instance.vcpus, self._parts.memory)
                goes_on = self._state.go_on()
            elif self._state.end is PAUSE:
                goes_on, _ = self._pause()
            else:
                return
            if not goes_on:
                return

    def _record_end(self, end: End) -> None:
        """Note what is lost once the VM is gone."""
        self._verdict.weigh(end)
        if end.reason in _REPORTED:
            self._report = self._make_report()

    def _make_report(self) -> str:
        """Registers, code and stack, and what the devices have to say.

        It only adorns the result, so that nothing in it may fail the run.
        """
        parts = self._parts
        try:
            from ..debug.crash_report import crash_report

            report = crash_report(
                self.instance.vcpus, parts.memory, self._find_symbols()
            )
        except Exception as error:  # no descriptor is left for a module's file, for one
            report = f"there is no report: {type(error).__name__}: {error}"
        return "\n".join([report, *parts.devices.reports()])

    def _with_failures(self, end: End) -> End:
        """The end, with what could not be written; a success is none then."""
        lost = [text for text in self._host_side.failures if text not in end.detail]
        if not lost:
            return end
        if self._is_success(end):
            return End(ExitReason.ERROR, "; ".join(lost))
        return end.replace(detail="; ".join(filter(None, [end.detail, *lost])))

    def _is_success(self, end: End) -> bool:
        if end.reason is ExitReason.EXITED:  # which other statuses are, nobody knows
            return end.exit_code == 0 or not self.config.runs_command
        return end.reason in _ENDED_EARLY

    def _policy(self, reason: ExitReason) -> str:
        policies: dict[ExitReason, str] = {
            ExitReason.RESET: self.config.on_reset,
            ExitReason.PANIC: self.config.on_panic,
            ExitReason.CRASH: self.config.on_crash,
        }
        return policies.get(reason, "exit")

    def _pause(
        self, *, by_policy: bool = False, goes_on: bool = True
    ) -> tuple[bool, RunResult | None]:
        """Stand still until the guest is resumed: True; or has ended: False.

        A policy's pause has a result to show. The guest's time doesn't pass, if it is
        one that `goes_on` where it stands.
        """
        from ..debug.paused_guest import PausedGuest  # most runs never pause
        from .guest_time import GuestTime

        result, vcpus = None, self.instance.vcpus
        self._parts.devices.settle()
        self._host_side.hold()
        self._parts.devices.settle()  # what a timer had called there, before it held
        try:
            self._parts.devices.settle()  # with what the loop has given them till then
            self._time = GuestTime(self.instance.vm, vcpus)
            guest = PausedGuest(vcpus, self._parts.memory, self._find_symbols)
            try:
                if by_policy:
                    _, result = self._conclude()
                resumed = self._state.stand(guest, result)
            finally:
                guest.release()
            if resumed and goes_on:
                self._time.go_on()
            return resumed, result
        finally:
            self._host_side.go_on()

    def _boot_again(self) -> None:
        for console in self._host_side.ports:  # what RAM still has for them
            console.flush()
        self.power_off()
        self._parts = self._parts.with_images()
        self._reset_devices()
        self._state.rearm()
        self.instance = self._power_on()

    def _reset_devices(self) -> None:
        """And RAM, in which no device may still be at work for the guest that was."""
        clock = self._host_side.clock
        self._host_side.loop.settle(clock.stop)
        self._parts.devices.settle()
        for device in self._host_side.served:
            device.hold()
        try:
            self._parts.memory.clear()
            self._parts.devices.reset()
        finally:
            clock.start()

    def _totals(self) -> tuple[dict[str, int], int]:
        """Exits by kind and emulated instructions, over all boots."""
        exits = dict(self._exits)
        if not self._powered:
            return exits, self._insn_emulation
        for kind, count in self.instance.exits.items():
            exits[kind] = exits.get(kind, 0) + count
        return exits, self._insn_emulation + self.instance.insn_emulation

    def _find_symbols(self) -> "Symbols | None":
        if self._symbols is None and not self.config.boot_from_disk:
            from ..debug.symbols import symbols_of

            self._symbols = symbols_of(self.config.images()[0])
        return self._symbols

    def _conclude(self) -> tuple[End, RunResult]:
        """Let the console finish, and make the result that `wait` waits for."""
        end = self._verdict.effective_end
        hurried = end.reason in (ExitReason.STOPPED, ExitReason.TIMEOUT)
        now_ns = self._host_side.loop.now_ns()
        for console in self._host_side.consoles:
            console.finish(HURRY_S if hurried else None)
        end = self._with_failures(end)  # of which there may be more only now
        return end, self._full_result(end, now_ns)

    def _result_of(self, end: End) -> RunResult:
        """What is known whatever has failed: the reason, the exit code, the detail."""
        detail, code = end.detail, end.exit_code
        if code is None:
            code = self.config.own_exit_code(EXIT_CODES[end.reason])
        if self._host_side.command is not None and end.reason in _ENDED_EARLY:
            detail = "but its command's status never came"
            code = self.config.own_exit_code(1)
        if end.reason is ExitReason.CRASH:
            detail += self._parts.setup.quirks.note()
        status = success = None
        if end.reason is ExitReason.EXITED:
            status = code
            success = code == (0 if self.config.runs_command else DEBUG_EXIT_SUCCESS)
        return RunResult(
            end.reason, code, guest_status=status, success=success, detail=detail
        )

    def _full_result(self, end: End, ended_ns: int) -> RunResult:
        """And all that was counted and kept."""
        console, command = self._host_side.console, self._host_side.command
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
            snapshot=self._snapshot,
            quirks=self._parts.setup.quirks.counts,
            cmdline=self.instance.cmdline.decode(errors="surrogateescape"),
            console_bytes=console.sink.accepted,
            console_dropped=sum(each.sink.dropped for each in self._host_side.consoles),
            unclaimed_accesses=self._parts.devices.io_manager.unclaimed_accesses,
            oops=self._host_side.watch.oops,
            report=self._report,
            output=None if command is None else command.kept_output(),
        )

    def _since_start_s(self, when_ns: int) -> float:
        started_ns = self._state.started_ns
        assert started_ns is not None
        return round((when_ns - started_ns) / 1e9, 6)
